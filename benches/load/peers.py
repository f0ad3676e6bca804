"""Configurations of the servers that the gateway is compared with, all doing the same work: a look-up of the key among all keys
(401 without one), 1,000 routes, a limit for each key that is never reached, identity passed on, the key taken off."""
import json

BODY = "x" * 128
ROUTES = ["/bench/api/"] + [f"/bench/other-{number}/" for number in range(2, 1001)]


def upstream(port, folder):
    return f"""pid {folder}/up.pid; worker_processes 1; error_log /dev/null;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 100000000; client_max_body_size 0;
server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 "{BODY}"; }} }} }}"""


def nginx(port, upstream_port, keys, folder):
    entries = "\n".join(f'"Bearer {key}" c{i};' for i, key in enumerate(keys))
    (folder / "keys.map").write_text(entries)
    work = """{
  if ($consumer = "") { return 401; }
  limit_req zone=plan burst=60000 nodelay;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Authorization "";
  proxy_set_header X-Consumer-ID $consumer; proxy_pass http://up/v1/; }"""
    locations = "\n".join(f"location {route} {work}" for route in ROUTES)
    return f"""pid {folder}/peer.pid; worker_processes 1; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000; map_hash_max_size 262144; map_hash_bucket_size 128;
map $http_authorization $consumer {{ default ""; include {folder}/keys.map; }}
limit_req_zone $consumer zone=plan:64m rate=600000r/m;
upstream up {{ server 127.0.0.1:{upstream_port}; keepalive 1024; keepalive_requests 100000000; }}
server {{ listen 127.0.0.1:{port}; {locations} }} }}"""


def haproxy(port, upstream_port, keys, folder):
    (folder / "haproxy.keys").write_text("\n".join(f"{key} c{i}" for i, key in enumerate(keys)) + "\n")
    (folder / "haproxy.routes").write_text("\n".join(f"{route} up" for route in ROUTES) + "\n")
    return f"""global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
backend limits
  stick-table type string len 16 size 100k expire 2m store http_req_rate(60s)
frontend peer
  bind 127.0.0.1:{port}
  http-request set-var(txn.consumer) req.hdr(authorization),word(2,' '),map_str({folder}/haproxy.keys)
  http-request deny deny_status 401 if !{{ var(txn.consumer) -m found }}
  http-request track-sc0 var(txn.consumer) table limits
  http-request deny deny_status 429 if {{ sc_http_req_rate(0,limits) gt 60000000 }}
  http-request del-header Authorization
  http-request set-header X-Consumer-ID %[var(txn.consumer)]
  use_backend %[path,map_beg({folder}/haproxy.routes)]
backend up
  http-request replace-path /bench/[^/]+/(.*) /v1/\\1
  server up 127.0.0.1:{upstream_port} maxconn 4096
"""


def envoy(port, upstream_port, keys):
    typed = lambda name, **fields: {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}
    all_requests = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    bucket = {"max_tokens": 60_000_000, "tokens_per_fill": 60_000_000, "fill_interval": "60s"}
    filters = [
        {"name": "key", "typed_config": typed(
            "filters.http.api_key_auth.v3.ApiKeyAuth",
            credentials=[{"key": key, "client": f"c{i}"} for i, key in enumerate(keys)],
            key_sources=[{"header": "Authorization"}],
            forwarding={"header": "x-consumer-id", "hide_credentials": True})},
        {"name": "limit", "typed_config": typed(
            "filters.http.local_ratelimit.v3.LocalRateLimit", stat_prefix="limit", token_bucket=bucket,
            filter_enabled=all_requests, filter_enforced=all_requests, max_dynamic_descriptors=2 * len(keys),
            rate_limits=[{"actions": [{"request_headers": {"header_name": "x-consumer-id", "descriptor_key": "consumer"}}]}],
            descriptors=[{"entries": [{"key": "consumer"}], "token_bucket": bucket}])},
        {"name": "envoy.filters.http.router", "typed_config": typed(
            "filters.http.router.v3.Router", suppress_envoy_headers=True)},
    ]
    routes = [{"match": {"prefix": route}, "route": {"cluster": "up", "prefix_rewrite": "/v1/"}} for route in ROUTES]
    manager = typed("filters.network.http_connection_manager.v3.HttpConnectionManager", stat_prefix="peer",
                    http_filters=filters, generate_request_id=False,
                    route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]})
    address = lambda number: {"socket_address": {"address": "127.0.0.1", "port_value": number}}
    listener = {"name": "peer", "address": address(port),
                "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}
    endpoint = {"endpoint": {"address": address(upstream_port)}}
    cluster = {"name": "up", "type": "STATIC", "connect_timeout": "5s",
               "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [endpoint]}]}}
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})


def gateway(folder, port, admin, upstream_port, more=""):
    return f"""threads = 1
[node]
name = "bench"
data_dir = "{folder}"
[listen]
http = "127.0.0.1:{port}"
[admin]
listen = "127.0.0.1:{admin}"
[upstream]
allow = ["127.0.0.1/32"]
[log]
access = "none"
{more}"""
