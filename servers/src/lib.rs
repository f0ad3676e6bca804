//! A private Postgres and a private Redis on unix sockets, run from the machine's own programs: for `apihub up` and for
//! tests; and several of Redis on the loopback's ports, for tests of clusters, and a disk that is soon full. Opens no other port, downloads nothing, and
//! is not how a production database is run.

mod fault;
mod loopback;
mod place;
mod postgres;
mod process;
mod redis;
mod small_disk;
mod throw_away;

pub use fault::ServerFault;
pub use loopback::{Encryption, LoopbackRedis, LoopbackRole};
pub use place::{SOCKET_PATH_BYTES_MAX, is_reachable_by_others};
pub use postgres::{Durability, PrivatePostgres};
pub use process::{die_with_parent, send};
pub use redis::PrivateRedis;
pub use rustix::process::Signal;
pub use small_disk::{SmallDisk, leave_out_disk};
pub use throw_away::ThrowAwayPostgres;
