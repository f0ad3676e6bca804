//! The least a Pingora proxy can be: every request to one upstream. The peer that the gateway is measured against. With
//! `headers` it adds what the gateway adds to a request and to its answer, and nothing else: constants, made once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // A program for benchmarks alone.

use std::net::SocketAddr;

use async_trait::async_trait;
use http::HeaderValue;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{HttpPeer, Opt, Server};
use pingora::server::configuration::ServerConf;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare {
    upstream: SocketAddr,
    adds_headers: bool,
}

/// As long as what the gateway writes.
const ID: HeaderValue = HeaderValue::from_static("019aa9a4-7f00-7000-8000-000000000000");
const TO_UPSTREAM: [(&str, HeaderValue); 12] = [
    ("X-Consumer-ID", ID),
    ("X-Consumer-Username", HeaderValue::from_static("consumer-1234")),
    ("X-Credential-Identifier", ID),
    ("X-Subscription-ID", ID),
    ("X-Plan", HeaderValue::from_static("Bench")),
    ("X-Request-ID", ID),
    ("traceparent", HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")),
    ("X-Forwarded-For", HeaderValue::from_static("127.0.0.1")),
    ("X-Forwarded-Proto", HeaderValue::from_static("http")),
    ("X-Forwarded-Host", HeaderValue::from_static("127.0.0.1:12345")),
    ("X-Forwarded-Port", HeaderValue::from_static("12345")),
    ("Via", HeaderValue::from_static("1.1 apihub")),
];
const TO_CLIENT: [(&str, HeaderValue); 8] = [
    ("RateLimit-Policy", HeaderValue::from_static("\"minute\";q=60000000;w=60")),
    ("RateLimit", HeaderValue::from_static("\"minute\";r=59999999;t=1")),
    ("X-RateLimit-Limit", HeaderValue::from_static("60000000")),
    ("X-RateLimit-Remaining", HeaderValue::from_static("59999999")),
    ("X-RateLimit-Reset", HeaderValue::from_static("1")),
    ("X-Request-ID", ID),
    ("Server-Timing", HeaderValue::from_static("gateway;dur=0.050, upstream;dur=0.150")),
    ("Via", HeaderValue::from_static("1.1 apihub")),
];

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        head: &mut RequestHeader,
        (): &mut (),
    ) -> pingora::Result<()> {
        if self.adds_headers {
            for (name, value) in TO_UPSTREAM {
                head.insert_header(name, value)?;
            }
        }
        Ok(())
    }

    async fn response_filter(&self, _: &mut Session, head: &mut ResponseHeader, (): &mut ()) -> pingora::Result<()> {
        if self.adds_headers {
            for (name, value) in TO_CLIENT {
                head.insert_header(name, value)?;
            }
        }
        Ok(())
    }
}

/// `bare-pingora LISTEN UPSTREAM [headers]`
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: 1024, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None::<Opt>, conf);
    server.bootstrap();
    let adds_headers = arguments.get(3).is_some_and(|argument| argument == "headers");
    let bare = Bare { upstream: arguments[2].parse().unwrap(), adds_headers };
    let mut service = http_proxy_service(&server.configuration, bare);
    service.add_tcp(&arguments[1]);
    server.add_service(service);
    server.run_forever();
}
