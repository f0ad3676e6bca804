//! Free ports. The listener that found one is closed before the role opens it; the kernel does not hand it out again
//! soon, and every port is remembered so that two worlds of this process never share one.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::{LazyLock, Mutex};

static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

pub fn free() -> SocketAddr {
    loop {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address.port()) {
            return address;
        }
    }
}
