//! The least a Pingora proxy can be: every request to one upstream. The peer that the gateway is measured against.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // A program for benchmarks alone.

use std::net::SocketAddr;

use async_trait::async_trait;
use pingora::prelude::{HttpPeer, Opt, Server};
use pingora::server::configuration::ServerConf;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

/// `bare_pingora LISTEN UPSTREAM`
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: 1024, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None::<Opt>, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare(arguments[2].parse().unwrap()));
    service.add_tcp(&arguments[1]);
    server.add_service(service);
    server.run_forever();
}
