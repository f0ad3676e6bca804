"""What the load tools share: programs, processes pinned to cores, load, and what a process took. The proxy has the first core; load
and upstreams have the second, so that what is measured is the proxy alone."""
import contextlib, functools, json, os, pathlib, re, signal, socket, statistics, subprocess, sys, tempfile, threading, time, urllib.request

import peers

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PROXY_CORE, LOAD_CORE = "0", "1"


class Stage:
    """Programs of one profile, a folder of one's own, and processes that end with it. Another build of either program can be given."""

    def __init__(self, profile, gateway=None, bare=None):
        self.profile, self.running, self.silent = profile, [], []
        self.gateway_program, self.bare_program = gateway, bare

    def build(self):
        build = ["cargo", "build", "--profile", self.profile, "--locked"]
        subprocess.run([*build, "--bin", "apihub", "--example", "make_snapshot"], cwd=ROOT, check=True)
        # A workspace of its own: the published framework, not the patched copy that the gateway has.
        subprocess.run([*build, "--target-dir", TARGET / "bare"], cwd=ROOT / "benches/load/bare", check=True)

    def __enter__(self):
        self.build()
        folder = "debug" if self.profile == "dev" else self.profile
        self.programs = TARGET / folder
        self.gateway_program = self.gateway_program or self.programs / "apihub"
        self.bare_program = self.bare_program or TARGET / "bare" / folder / "bare-pingora"
        self.temporary = tempfile.TemporaryDirectory(prefix="apihub-bench-")
        self.folder = pathlib.Path(self.temporary.name)
        redis = self.folder / "redis.sock"
        self.start(["redis-server", "--port", "0", "--unixsocket", redis, "--save", "", "--dir", self.folder], LOAD_CORE)
        # Limits are leased from it and usage is sent to it, as in production.
        os.environ["REDIS_URL"] = f"redis+unix://{redis}"
        deadline = time.time() + 10
        while not redis.exists():
            assert time.time() < deadline, "redis-server does not start"
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        # At once: on SIGTERM the bare framework would wait for five minutes.
        for process in self.running:
            process.send_signal(signal.SIGINT)
        for process in self.running:
            process.wait()
        self.temporary.cleanup()

    def start(self, command, core=PROXY_CORE):
        process = subprocess.Popen(["taskset", "-c", core, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.running.append(process)
        return process

    def end(self, process):
        process.send_signal(signal.SIGINT)
        process.wait()
        self.running.remove(process)

    def file(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def nginx(self, name, text, core=PROXY_CORE):
        return self.start(["nginx", "-p", self.folder, "-c", self.file(f"{name}.conf", text), "-g", "daemon off;"], core)

    def upstream(self):
        port = free_port()
        self.nginx("upstream", peers.upstream(port, self.folder), LOAD_CORE)
        return port

    def bare(self, upstream, *more):
        port = free_port()
        command = [self.bare_program, f"127.0.0.1:{port}", f"127.0.0.1:{upstream}", *more]
        return command, f"http://127.0.0.1:{port}"

    def gateway(self, upstream, keys=10_000, endpoints=1, silent=None, more=""):
        """Its command, its address, and what `make_snapshot` told: path and keys by what they open."""
        port, admin = free_port(), free_port()
        data = self.folder / f"data-{port}"
        command = [self.programs / "examples" / "make_snapshot", data, keys, f"http://127.0.0.1:{upstream}", endpoints,
                   f"http://127.0.0.1:{silent or upstream}"]
        made = json.loads(subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout)
        conf = self.file(f"gateway-{port}.toml", peers.gateway(data, port, admin, upstream, more))
        return [self.gateway_program, "gateway", "--config", conf], f"http://127.0.0.1:{port}", Made(made)

    def silent_upstream(self):
        """Takes every connection and answers none."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)

        def hold():
            with contextlib.suppress(OSError):
                while True:
                    self.silent.append(listener.accept()[0])

        threading.Thread(target=hold, daemon=True).start()
        return listener.getsockname()[1]


class Made:
    def __init__(self, told):
        self.path, keys = told["path"], told["keys_by_what_they_open"]
        self.keys, self.limited = keys["keys"], keys["limited_keys"][0]
        self.unknown = keys["unknown_keys"][0]
        self.neighbour, self.limited_neighbour = keys["neighbour_keys"][0], keys["limited_neighbour_keys"][0]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def processes(pid):
    """A process and its children."""
    found = [pid]
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(status.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(status.parent.name))
    return found


def cpu_seconds(pid):
    ticks = 0
    for each in processes(pid):
        fields = pathlib.Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Rss:\s+(\d+) kB", text, re.M)[1]) * 1024


def ask(url, key):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    try:
        return urllib.request.urlopen(request, timeout=2).status
    except urllib.error.HTTPError as answer:
        return answer.code


def wait_for(url, key, status=200, seconds=300):
    deadline = time.time() + seconds
    while time.time() < deadline:
        with contextlib.suppress(OSError):
            if ask(url, key) == status:
                return
        time.sleep(0.1)
    sys.exit(f"{url} never answered {status}")


def sender(folder, keys, name="keys"):
    """wrk sends each request with another key, and counts every status."""
    path = folder / f"{name}.lua"
    listed = ",".join(f'"{key}"' for key in keys)
    path.write_text("""local keys, at, threads = {%s}, 0, {}
setup = function(thread) table.insert(threads, thread) end
init = function() counts = {} end
request = function()
  at = at %% #keys + 1
  return wrk.format('GET', nil, { Authorization = 'Bearer ' .. keys[at] })
end
response = function(status) counts[status] = (counts[status] or 0) + 1 end
done = function()
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get('counts')) do print('answered ' .. status .. ': ' .. count) end
  end
end
""" % listed)
    return path


def excused(status):
    """Answers with another status: a plan that is used up admits its one request a minute."""
    return 2 if status == 429 else 0


def load(url, script, seconds, status=200, connections=32):
    """As much as goes through. Requests done, and the median latency in microseconds. Every answer must have the status."""
    out = subprocess.run(["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency",
                          "-s", str(script), url], check=True, capture_output=True, text=True).stdout
    answered = {int(status): int(count) for status, count in re.findall(r"answered (\d+): (\d+)", out)}
    if not answered.get(status) or sum(answered.values()) - answered[status] > excused(status) or "Socket errors" in out:
        sys.exit(f"{url}: not every answer was a {status}\n{out}")
    p50 = re.search(r"50%\s+([\d.]+)(us|ms|s)", out)
    return int(re.search(r"(\d+) requests in", out)[1]), float(p50[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[p50[2]]


def paced(folder, url, key, rate, seconds, connections=20, body=None, before=()):
    """A constant rate, whatever the answers take; `before` are words before the program's own. Latencies in microseconds, sorted, of the
    answers with each status."""
    log = folder / f"paced-{time.monotonic_ns()}.tsv"
    command = ["taskset", "-c", LOAD_CORE, *before, "h2load", "--h1", "-t1", f"-c{connections}", f"--rps={rate / connections}", f"-D{seconds}",
               "--warm-up-time=0", f"--log-file={log}", "-H", f"authorization: Bearer {key}", *(["-d", str(body)] if body else []), url]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = {}
    for line in log.read_text().splitlines():
        _, status, took = line.split("\t")[:3]
        found.setdefault(int(status), []).append(int(took))
    log.unlink()
    return {status: sorted(times) for status, times in found.items()}


class Counter:
    """A program under callgrind. It counts from the moment it is ready, so the size of what it loads costs little."""

    def __init__(self, stage, command, url, key, name):
        self.out = stage.folder / f"callgrind.{name}"
        self.process = subprocess.Popen(["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={self.out}",
                                         *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stage.running.append(self.process)
        self.dumps = 0
        wait_for(url, key)
        self.control("-i", "on")

    def control(self, *words):
        subprocess.run(["callgrind_control", *words, str(self.process.pid)], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def dump(self):
        """User instructions since the last dump."""
        self.control("--dump")
        self.dumps += 1
        path = pathlib.Path(f"{self.out}.{self.dumps}")
        deadline = time.time() + 60
        while time.time() < deadline:
            if path.exists() and (total := re.search(r"^(?:totals|summary): (\d+)", path.read_text(), re.M)):
                return int(total[1])
            time.sleep(0.1)
        sys.exit(f"callgrind wrote no {path}")

    def a_request(self, url, key, status=200, count=2000):
        """User instructions of one request, the loops of an idle program taken off."""
        warm(url, key, status)
        self.dump()
        ask_again(url, key, status, count)
        return self.dump() / count

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()


SECONDS = object()
# The short run has opened every key at the lowest rate of the tools, and has told of it once.
SHORT, LONG = 16, 32


def counted(program, words):
    """What a program tells as JSON, and the user instructions that it took."""
    with tempfile.NamedTemporaryFile(prefix="apihub-callgrind-") as out:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", str(program), *map(str, words)]
        told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout)
        total = re.search(r"^(?:totals|summary): (\d+)", pathlib.Path(out.name).read_text(), re.M)
        return told | {"instructions": int(total[1])}


@functools.cache
def example(name):
    """The program of that name, built."""
    subprocess.run(["cargo", "build", "--release", "--locked", "-p", "apihub-gateway", "--example", name], cwd=ROOT, check=True)
    return TARGET / "release" / "examples" / name


def per_request(program, *words):
    """Of an example that makes requests at a pace for SECONDS, which is among the words: what one of them adds to everything it
    tells, and to its instructions. A long run less a short one, so that what is done once costs nothing."""
    short, long = (counted(program, [seconds if word is SECONDS else word for word in words]) for seconds in (SHORT, LONG))
    asked = long["asked"] - short["asked"]
    return {name: (long[name] - short[name]) / asked for name in long}


def warm(url, key, status, count=500):
    """Until so many in a row are answered: under a counter a process is so slow that Redis may count as away at first."""
    for _ in range(10):
        with contextlib.suppress(AssertionError):
            return ask_again(url, key, status, count)
        time.sleep(1)
    ask_again(url, key, status, count)


def ask_again(url, key, status, count):
    """On one connection."""
    host, port = url.split("/")[2].split(":")
    path = "/" + url.split("/", 3)[3]
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    with socket.create_connection((host, int(port))) as connection:
        reader, others = connection.makefile("rb"), 0
        for _ in range(count):
            connection.sendall(request)
            line, length = reader.readline(), 0
            others += f" {status} ".encode() not in line
            assert others <= excused(status), line
            while (line := reader.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            reader.read(length)


def median_ratio(of, to):
    """The median of ratios taken round by round."""
    return statistics.median(mine / other for mine, other in zip(of, to))


def thirds(values):
    """Where the lowest third ends and the highest begins."""
    ordered = sorted(values)
    return ordered[len(ordered) // 3], ordered[-1 - len(ordered) // 3]


def median(values):
    return statistics.median(values)
