//! The one way to the Redis in which a fleet counts its limits, for gateways and control planes alike: how operators name it, and
//! how it is reached. Refuses to know what is said there; that is the core's.

mod connection;
mod settings;

pub use self::connection::{Connection, OpenFault, Patience, is_line_dead};
pub use self::settings::{LimitsRedis, RedisKind};
