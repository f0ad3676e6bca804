//! A whole gateway on real sockets, with upstreams that answer what a test wants, byte for byte. What crosses the wire is
//! looked at here; what is decided has its own tests.

mod attacks;
mod caps;
mod counted;
mod door;
mod harness;
mod hot_pool;
mod kept;
mod pipelined;
mod proxying;
mod upstreams;
