"""A running `apihub up`: its REST as the operator, a catalog of its own, and gateways beside its own."""
import contextlib, http.client, json, os, pathlib, re, subprocess, tempfile, time, urllib.parse, urllib.request

import bench

# A connection that was idle for longer is not used again: the other side may be about to close it.
IDLE_S = 2
# A gateway that is not ready by then will not be.
READY_WITHIN_S = 60


class Http:
    def __init__(self, url, headers):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
        self.headers, self.used = headers, time.monotonic()

    def send(self, method, path, body=None, **headers):
        data = None if body is None else json.dumps(body)
        kind = {} if body is None else {"Content-Type": "application/json"}
        if time.monotonic() - self.used > IDLE_S:
            self.connection.close()
        self.connection.request(method, path, data, {**self.headers, **kind, **headers})
        answer = self.connection.getresponse()
        text = answer.read()
        self.used = time.monotonic()
        return answer.status, dict(answer.getheaders()), json.loads(text) if text[:1] in b"{[" and text else None

    def good(self, *arguments, **headers):
        status, _, body = self.send(*arguments, **headers)
        assert 200 <= status < 300, (status, body)
        return body


class Catalog:
    """A product of a new publisher at one endpoint, and a subscription to it whose limits are never reached."""

    def __init__(self, rest, target_url, name="bench"):
        self.rest, slug = rest, f"{name}-{format(time.time_ns(), 'x')}"
        organization = rest.good("POST", "/v1/organizations", {"slug": slug, "name": "Bench"})["id"]
        self.product = rest.good("POST", f"/v1/organizations/{organization}/products", {"slug": "api", "name": "API"})["id"]
        self.endpoint = rest.good("POST", f"/v1/products/{self.product}/endpoints",
                                  {"method": "GET", "path_pattern": "/x", "target_url": target_url})["id"]
        plan = rest.good("POST", f"/v1/products/{self.product}/plans",
                         {"slug": "plan", "name": "Plan", "price": "0", "currency": "USD", "rate_limit": 50000000,
                          "policy": {"burst_limit": 1000000}})["id"]
        self.publish(Prefer="wait=10")
        self.subscription = rest.good("POST", f"/v1/organizations/{organization}/subscriptions", {"plan_id": plan})["id"]
        self.path = f"/{slug}/api/x"

    def publish(self, **headers):
        self.rest.good("POST", f"/v1/products/{self.product}/publish", {}, **headers)

    def send_to(self, target_url):
        self.rest.good("PATCH", f"/v1/endpoints/{self.endpoint}", {"target_url": target_url})

    def new_key(self):
        return self.rest.good("POST", f"/v1/subscriptions/{self.subscription}/keys", {"name": "k", "environment": "live"},
                              Prefer="wait=10")

    def revoke(self, key):
        self.rest.good("POST", f"/v1/keys/{key['id']}/revoke", {})

    def limit(self, requests_per_minute):
        self.rest.good("PUT", f"/v1/subscriptions/{self.subscription}/override",
                       {"requests_per_minute": requests_per_minute, "burst_limit": 1000000})


def sign_in(up):
    plain = Http(up["control_plane_url"], {"Origin": up["control_plane_url"]})
    body = {"email": up["admin_email"], "password": up["admin_password"]}
    status, headers, _ = plain.send("POST", "/v1/sessions", body)
    assert status == 201, status
    cookie = next(value for name, value in headers.items() if name.lower() == "set-cookie").split(";")[0]
    token = plain.good("POST", "/v1/access-tokens", {"name": "bench", "scopes": ["read", "write", "admin"]}, Cookie=cookie)["token"]
    return Http(up["control_plane_url"], {"Authorization": f"Bearer {token}"})


def has_caught_up(admin_port):
    with contextlib.suppress(OSError):
        status, _, health = Http(f"http://127.0.0.1:{admin_port}", {}).send("GET", "/healthz")
        return status == 200 and (health.get("snapshot") or {}).get("source") == "feed"
    return False


@contextlib.contextmanager
def more_gateways(up_json, rest, program, count, before=()):
    """Gateways beside that of `up`, with its settings but for names, folders and ports; gone at the end. `before` are words before
    the program's own, as those of taskset. Answers their processes and metrics' ports by address."""
    up, data = json.load(open(up_json)), pathlib.Path(up_json).resolve().parent
    text = (data / "run/gateway.toml").read_text()
    token = (data / "secrets/feed-token").read_text().strip()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apihub-bench-")))
        started = {}
        # Once they have ended nobody shall wait for them any more.
        stack.callback(forget, rest)
        for n in range(count):
            name, http_port, admin_port = f"bench-{n}", bench.free_port(), bench.free_port()
            sections = {"node": {"name": name, "data_dir": str(folder / name)}, "listen": {"http": f"127.0.0.1:{http_port}"},
                        "admin": {"listen": f"127.0.0.1:{admin_port}"}}
            mine = text
            for section, values in sections.items():
                for key, value in values.items():
                    pattern = rf'(?ms)(^\[{section}\]$.*?^{key} = )"[^"]*"'
                    mine = re.sub(pattern, lambda found: found[1] + json.dumps(value), mine, count=1)
            (folder / f"{name}.toml").write_text(mine)
            environment = {**os.environ, "APIHUB_FEED_TOKEN": token, "REDIS_URL": up["redis_url"], "RUST_LOG": "warn"}
            child = subprocess.Popen([*before, program, "gateway", "--config", folder / f"{name}.toml"], env=environment)
            stack.callback(child.wait)
            stack.callback(child.kill)
            deadline = time.monotonic() + READY_WITHIN_S
            while not has_caught_up(admin_port):
                assert child.poll() is None and time.monotonic() < deadline, f"{name} does not get ready"
                time.sleep(0.05)
            started[f"http://127.0.0.1:{http_port}"] = child, admin_port
        yield started


def beyond(admin_port, le):
    """Of a gateway's answers so far: how many took more of its own time than this bucket's, and how many there were."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/metrics", timeout=5).read().decode()
    name = "gateway_http_overhead_duration_seconds"
    within, all_of_them = (int(re.search(rf"^{name}{part} (\d+)$", text, re.M)[1]) for part in (rf'_bucket{{le="{le}"}}', "_count"))
    return all_of_them - within, all_of_them


def forget(rest):
    for node in rest.good("GET", "/v1/nodes?limit=100")["data"]:
        if node["name"].startswith("bench-"):
            deadline = time.monotonic() + READY_WITHIN_S
            while rest.send("DELETE", f"/v1/nodes/{node['id']}")[0] == 409:
                assert time.monotonic() < deadline, f"{node['name']} is still connected"
                time.sleep(0.1)
