//! Each way in which the gateway says no: status, headers and body.

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Catalog, World, eventually};

struct Problem {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

async fn problem(request: reqwest::RequestBuilder) -> Problem {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    assert_eq!(headers["content-type"], "application/problem+json", "{status} {headers:?}");
    let body: Value = answer.json().await.unwrap();
    for field in ["type", "title", "detail", "instance", "code", "request_id"] {
        assert!(body[field].is_string(), "{field} in {body}");
    }
    assert_eq!(body["status"], status);
    assert_eq!(body["request_id"], headers["x-request-id"].to_str().unwrap());
    assert_eq!(body["code"], headers["x-gateway-error"].to_str().unwrap());
    Problem { status, headers, body }
}

async fn published(world: &World) -> Catalog {
    let ann = world.publisher("ann").await;
    let url = world.upstream.url();
    ann.product("api").endpoint("GET", "/x", &url).endpoint("POST", "/x", &url).publish().await
}

#[tokio::test]
async fn requests_without_a_route_or_a_good_key_are_refused_with_the_reason() {
    let world = World::start().await;
    let catalog = published(&world).await;
    let base = format!("{}{}", world.gateway().url, catalog.path);
    let client = &world.client;
    let key = catalog.key.as_str();

    let nothing = problem(client.get(format!("{}/nobody/nothing", world.gateway().url)).bearer_auth(key)).await;
    assert_eq!((nothing.status, nothing.body["code"].as_str().unwrap()), (404, "no_route"));
    let method = problem(client.delete(format!("{base}/x")).bearer_auth(key)).await;
    assert_eq!(method.status, 405);
    let allow = method.headers["allow"].to_str().unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");

    let missing = problem(client.get(format!("{base}/x"))).await;
    assert_eq!((missing.status, missing.body["code"].as_str().unwrap()), (401, "missing_key"));
    assert!(missing.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    let mut typo = key.to_owned();
    typo.pop();
    for bad in [typo.as_str(), "hub_live_nonsense", "x"] {
        let refused = problem(client.get(format!("{base}/x")).bearer_auth(bad)).await;
        assert_eq!((refused.status, refused.body["code"].as_str().unwrap()), (401, "invalid_key"), "{bad}");
        assert!(refused.headers.contains_key("www-authenticate"));
    }
    let unknown = snapshot::key::mint("hub", snapshot::key::Environment::Live).unwrap();
    let refused = problem(client.get(format!("{base}/x")).header("apikey", unknown.reveal())).await;
    assert_eq!(refused.status, 401);
    let two = problem(client.get(format!("{base}/x")).bearer_auth(key).header("x-api-key", unknown.reveal())).await;
    assert_eq!(two.status, 400);
    assert_eq!(world.upstream.requests(), 0, "nothing reached the upstream");
}

#[tokio::test]
async fn a_known_key_is_refused_for_what_its_subscription_lacks() {
    let world = World::start().await;
    let ann = world.publisher("ann").await;
    let url = world.upstream.url();
    let endpoint = json!({ "method": "GET", "path_pattern": "/admin", "target_url": url, "scope": "admin" });
    let a = ann.product("one").endpoint_with(endpoint).endpoint("GET", "/x", &url).publish().await;
    let b = ann.product("two").endpoint("GET", "/x", &url).publish().await;
    let client = &world.client;
    let gateway = &world.gateway().url;

    let other = problem(client.get(format!("{gateway}{}/x", b.path)).bearer_auth(&a.key)).await;
    assert_eq!((other.status, other.body["code"].as_str().unwrap()), (403, "no_subscription"));
    let (_, narrow) = ann.key(&a.subscription, json!({ "name": "n", "environment": "live", "scopes": ["read"] })).await;
    let scope = problem(client.get(format!("{gateway}{}/admin", a.path)).bearer_auth(&narrow)).await;
    assert_eq!(scope.status, 403);
    assert_eq!(
        client.get(format!("{gateway}{}/admin", a.path)).bearer_auth(&a.key).send().await.unwrap().status(),
        200
    );

    ann.post_served(&format!("/v1/subscriptions/{}/suspend", a.subscription), json!({})).await;
    let suspended = problem(client.get(format!("{gateway}{}/x", a.path)).bearer_auth(&a.key)).await;
    assert_eq!(suspended.status, 403);
    eventually("refusals of a subscription of this product are logged, and not billable", || async {
        let rows = world.query("SELECT verdict, billable FROM usage_logs WHERE status = 403").await;
        let not_billable = rows.iter().all(|row| row[1].as_deref() == Some("f"));
        (rows.len() == 2 && not_billable).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_an_upstream_does_wrong_is_told_as_502_503_or_504() {
    let world = World::start().await;
    let ann = world.publisher("ann").await;
    let raw = format!("http://{}", world.upstream.raw_address);
    let slow = json!({
        "method": "GET", "path_pattern": "/slow", "target_url": format!("{}/slow?ms=5000", world.upstream.url()),
        "read_timeout_ms": 300,
    });
    let closed = format!("http://127.0.0.1:{}", world.upstream.closed_port);
    let catalog = ann
        .product("api")
        .endpoint("GET", "/raw/{how}", &format!("{raw}/{{how}}"))
        .endpoint("GET", "/closed", &closed)
        .endpoint_with(slow)
        .publish()
        .await;
    let get = |path: &str| {
        world.client.get(format!("{}{}{path}", world.gateway().url, catalog.path)).bearer_auth(&catalog.key)
    };
    for (path, status) in [
        ("/raw/two-lengths", 502),
        ("/raw/garbage", 502),
        ("/raw/unasked-101", 502),
        ("/raw/nothing", 502),
        ("/slow", 504),
    ] {
        assert_eq!(problem(get(path)).await.status, status, "{path}");
    }
    let closed = problem(get("/closed")).await;
    assert!(closed.status == 502 || closed.status == 503, "{}", closed.status);
    let cut = get("/raw/cut-short").send().await.unwrap();
    assert!(cut.bytes().await.is_err(), "a body that was cut short is never shown as complete");
}

#[tokio::test]
async fn bodies_beyond_the_limit_are_refused_whether_announced_or_not() {
    let world = World::start().await;
    let ann = world.publisher("ann").await;
    let target = format!("{}/upload", world.upstream.url());
    let settings = json!({ "body_bytes_max": 1000 });
    let catalog = ann.product("api").settings(settings).endpoint("POST", "/up", &target).publish().await;
    let post = || world.client.post(format!("{}{}/up", world.gateway().url, catalog.path)).bearer_auth(&catalog.key);
    assert_eq!(problem(post().body(vec![0u8; 1001])).await.status, 413);
    let chunks = futures::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![0u8; 100])));
    let streamed = post().body(reqwest::Body::wrap_stream(chunks)).send().await;
    // A client that still writes when the connection is closed may miss the answer; that there was one is counted.
    assert!(streamed.map_or(true, |answer| answer.status() == 413));
    let refused = r#"gateway_http_requests_total{code="413",method="POST",verdict="body_too_large"}"#;
    eventually("both are refused", || async { (world.gateway().metric(refused).await == 2.0).then_some(()) }).await;
    let uploaded = world.upstream.uploaded_bytes();
    assert!(uploaded <= 1000, "{uploaded} bytes reached the upstream");
    assert_eq!(post().body(vec![0u8; 1000]).send().await.unwrap().status(), 200);
    assert_eq!(world.upstream.uploaded_bytes(), uploaded + 1000);
}

#[tokio::test]
async fn malformed_and_ambiguous_requests_are_refused_before_they_are_routed() {
    let world = World::start().await;
    let catalog = published(&world).await;
    let address = world.gateway().url.strip_prefix("http://").unwrap().to_owned();
    let path = &catalog.path;
    let key = &catalog.key;
    let auth = format!("Authorization: Bearer {key}\r\n");
    for (request, statuses) in [
        (format!("GET {path}/x HTTP/1.1\r\n{auth}\r\n"), &[400][..]),
        (format!("GET {path}/x HTTP/1.1\r\nHost: a b\r\n{auth}\r\n"), &[400]),
        (format!("POST {path}/x HTTP/1.1\r\nHost: h\r\n{auth}Content-Length: 5, 5\r\n\r\nhello"), &[400]),
        (
            format!("POST {path}/x HTTP/1.1\r\nHost: h\r\n{auth}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
            &[400],
        ),
        (
            format!(
                "POST {path}/x HTTP/1.1\r\nHost: h\r\n{auth}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            &[400],
        ),
        (
            format!("POST {path}/x HTTP/1.1\r\nHost: h\r\n{auth}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            &[400, 501],
        ),
        (format!("TRACE {path}/x HTTP/1.1\r\nHost: h\r\n{auth}\r\n"), &[405]),
        (format!("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n{auth}\r\n"), &[400, 405]),
        (format!("GET {path}/%2e%2e%2fx HTTP/1.1\r\nHost: h\r\n{auth}\r\n"), &[400]),
        (format!("GET {path}//x HTTP/1.1\r\nHost: h\r\n{auth}\r\n"), &[400]),
        (format!("GET {path}/x\\y HTTP/1.1\r\nHost: h\r\n{auth}\r\n"), &[400]),
        (format!("GET {path}/{} HTTP/1.1\r\nHost: h\r\n{auth}\r\n", "a".repeat(9000)), &[414]),
        (format!("GET {path}/x HTTP/1.1\r\nHost: h\r\n{auth}{}\r\n", "A: b\r\n".repeat(120)), &[431]),
        (format!("GET {path}/x HTTP/1.1\r\nHost: h\r\n{auth}{auth}\r\n"), &[400]),
    ] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0u8; 12];
        stream.read_exact(&mut answer).await.unwrap();
        let status: u16 = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
        assert!(statuses.contains(&status), "{status} for {}", request.chars().take(120).collect::<String>());
    }
    assert_eq!(world.upstream.requests(), 0, "nothing reached the upstream");
}
