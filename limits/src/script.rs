//! Redis' side as it runs: the library of Redis functions, the names of the keys, and a message's way into one binary argument
//! and back out of one bulk string. Refuses to connect, send or retry; and what the numbers mean is `wire`'s.
//!
//! `FUNCTION LOAD REPLACE <library>` on every master, then `FCALL <EXCHANGE> <keys> … <argument>`. A later layout gets a
//! later version and other names, so that gateways of both can run at once.

#[cfg(test)]
#[cfg(not(loom))]
mod differential;
mod pack;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

pub use self::pack::BadReply;
use crate::wire::{Reply, Request};

/// Hash-tag groups: a Redis Cluster spreads them over its masters.
pub const GROUPS: u16 = 1024;
/// Of a key's name beside the prefix: two numbers and what parts them.
const NAME_BYTES: usize = 32;
/// The name of the library, as `FUNCTION LIST` tells it.
pub const LIBRARY: &str = "apihub_limits_v1";
/// The function that carries a `Request` out.
pub const EXCHANGE: &str = "apihub_limits_v1_exchange";
/// The function that puts a lost count of a period back.
pub const SEED: &str = "apihub_limits_v1_seed";
/// The function that holds a known count of a period against another one.
pub const MEND: &str = "apihub_limits_v1_mend";

/// Which keys share one link: its numbers, and one message under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// All keys: one Redis, with or without Sentinel.
    Whole,
    /// The keys of one group: a Redis Cluster, where a call may touch one slot only.
    Group(u16),
}

/// `FCALL <function> keys.len() keys… argument`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub keys: Vec<String>,
    pub argument: Vec<u8>,
}

/// The source of the library.
pub fn library() -> &'static str {
    include_str!("../redis/limits.lua")
}

/// The group of a limit key (a meter's number × 2, and 1 more for test keys): all keys of a subscription share it. For ever the
/// same, for states lie under it.
pub fn group_of(key: u64) -> u16 {
    let mixed = ((key >> 1) ^ (key >> 33)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    u16::try_from((mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 54).unwrap_or(0) % GROUPS
}

/// The call that carries a request out. `prefix` is without braces. In `Lane::Group` every ask's key is of that group.
pub fn exchange(prefix: &str, lane: Lane, request: &Request) -> Call {
    let mut keys = Vec::with_capacity(request.asks.len() + 1);
    keys.push(match lane {
        Lane::Whole => format!("{prefix}:link:{}", request.node),
        Lane::Group(group) => format!("{prefix}:{{b{group}}}:link:{}", request.node),
    });
    keys.extend(request.asks.iter().map(|ask| state_key(prefix, ask.key)));
    Call { keys, argument: pack::request(request) }
}

/// What `EXCHANGE` answers: one bulk string.
pub fn read_reply(bytes: &[u8]) -> Result<Reply, BadReply> {
    pack::reply(bytes)
}

/// The call that sets a period's count where it is absent, and only there; it answers 1 if it did, else 0.
pub fn seed(prefix: &str, key: u64, period: u32, used: u64) -> Call {
    Call { keys: vec![state_key(prefix, key)], argument: pack::seed(period, used) }
}

/// What is asked of a period's count. Nothing but zeros: to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mend {
    pub period: u32,
    /// No less than this may have been used.
    pub least: u64,
    /// So many are too much, if nobody has taken them off since `since_us`.
    pub excess: u64,
    pub since_us: u64,
}

/// A period's count as it was found and as it was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mended {
    pub before: u64,
    pub after: u64,
    /// Tokens given back since `born_us`.
    pub credited: u64,
    pub born_us: u64,
    /// When the count was begun or last lowered.
    pub since_us: u64,
}

pub fn mend(prefix: &str, key: u64, mend: Mend) -> Call {
    Call { keys: vec![state_key(prefix, key)], argument: pack::mend(mend) }
}

/// What `MEND` answers; `None`: no count of this period is there.
pub fn read_mended(bytes: &[u8]) -> Result<Option<Mended>, BadReply> {
    if bytes.is_empty() { Ok(None) } else { pack::mended(bytes).map(Some) }
}

/// A key where those of a group lie, under which there is nothing.
pub fn probe_key(prefix: &str, group: u16) -> String {
    format!("{prefix}:{{b{group}}}:probe")
}

/// Where a key's bucket or window lies, and its month.
fn state_key(prefix: &str, key: u64) -> String {
    let mut name = String::with_capacity(prefix.len() + NAME_BYTES);
    name.push_str(prefix);
    name.push_str(":{b");
    push_number(&mut name, group_of(key).into());
    name.push_str("}:");
    push_number(&mut name, key);
    name
}

/// A hundred of them stand in a message: as the formatter of the language does it, at a fraction of its cost.
fn push_number(text: &mut String, number: u64) {
    if number > 9 {
        push_number(text, number / 10);
    }
    text.push(char::from(b'0' + u8::try_from(number % 10).unwrap_or(0)));
}
