//! Chooses listening addresses on loopback: the asked-for port, or the usual one, or any that is free.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context as _;

/// An asked-for port must be free; a usual one that is taken is replaced by any free one.
pub fn choose(asked: Option<u16>, usual: u16) -> anyhow::Result<SocketAddr> {
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    match asked {
        Some(port) if port != 0 => bind(port).with_context(|| format!("port {port} is not free")),
        Some(_) => bind(0).context("no free port"),
        None => bind(usual).or_else(|_| bind(0)).context("no free port"),
    }
}
