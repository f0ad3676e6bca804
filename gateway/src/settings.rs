//! The gateway's settings as types: what an operator may choose, with its unit in its name. It refuses to have a default of
//! its own beside `config/gateway.toml`, which shows every key.

pub(crate) mod reading;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::settings::{Secret, SettingsErrors};
use ipnet::IpNet;
use limits_redis::LimitsRedis;
use snapshot::guard::AllowedRange;

use crate::usage::OnFull;

/// Everything that `apihub gateway` needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads of the proxy; the other services have one each.
    pub threads: usize,
    pub node: Node,
    pub listen: Listen,
    pub admin: Admin,
    pub feed: Feed,
    pub usage: Usage,
    pub upstream: Upstream,
    pub client: Client,
    pub limits: Limits,
    pub answers: Answers,
    pub stop: Stop,
    pub log: Log,
    /// Given on the command line, never in the file: take the listeners over from the running process.
    pub upgrade: bool,
}

#[derive(Clone, Debug)]
pub struct Node {
    /// As operators see it; the identity is a UUID that lives in `data_dir`.
    pub name: String,
    /// Last good snapshot, identity, upgrade socket. Made with mode 0700.
    pub data_dir: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Listen {
    pub http: SocketAddr,
    pub https: Option<Https>,
}

#[derive(Clone, Debug)]
pub struct Https {
    pub address: SocketAddr,
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Admin {
    pub listen: SocketAddr,
}

#[derive(Clone, Debug)]
pub struct Feed {
    /// `unix:/path`, `http://127.0.0.1:…` or `https://…`; any of them will do.
    pub control_planes: Vec<String>,
    pub token: Option<Secret>,
    pub ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Usage {
    /// May carry a password. `None`: usage is counted as dropped.
    pub redis_url: Option<Secret>,
    pub stream: String,
    /// Entries in the stream beyond which the gateway holds its batches back.
    pub stream_length_max: u64,
    /// Bytes of batches kept on disk.
    pub spool_bytes_max: u64,
    pub on_usage_full: OnFull,
}

/// Towards the publishers' servers. The time-outs stand in where an endpoint names none.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub allow: Vec<AllowedRange>,
    pub ca_file: Option<PathBuf>,
    pub connections_kept: usize,
    /// Of one product, idle ones too, where an operator gave it no cap of its own.
    pub connections_per_product_max: NonZeroU32,
    pub idle_timeout: Duration,
    pub connect_timeout: Duration,
    pub read_timeout: Duration,
    pub write_timeout: Duration,
}

/// Towards those who call.
#[derive(Clone, Debug)]
pub struct Client {
    pub trusted_proxies: Vec<IpNet>,
    /// For a whole request header, however its bytes are spread, and for the first byte of a TLS handshake.
    pub header_timeout: Duration,
    /// Between two requests of one connection.
    pub keepalive_timeout: Duration,
    /// For each read of a request body.
    pub read_timeout: Duration,
    /// For each write of an answer.
    pub write_timeout: Duration,
    /// Silence after which a WebSocket or another tunnel is closed.
    pub tunnel_idle_timeout: Duration,
    /// A large piece of an answer gets the time that this rate (per second) needs, where that is more than `write_timeout`.
    pub send_rate_bytes_min: usize,
    /// Of a request body, per second, judged over 30 seconds or the endpoint's write time-out.
    pub body_rate_bytes_min: u64,
    pub requests_per_connection_max: u32,
    pub http2_idle_timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct Limits {
    pub connections_max: usize,
    pub connections_per_address_max: usize,
    /// New connections of one address per second; 0 means no limit.
    pub connection_rate_per_address_max: usize,
    pub header_bytes_max: usize,
    pub header_count_max: usize,
    pub target_bytes_max: usize,
    pub body_bytes_max: u64,
    /// In flight of one product, where an operator gave it no cap of its own.
    pub requests_per_product_max: NonZeroU32,
    /// Where the fleet counts its plans' limits. `None`: this gateway counts alone.
    pub redis: Option<LimitsRedis>,
}

/// In which form an answer tells its limits, beside `X-RateLimit-*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimitHeaders {
    /// `RateLimit-Policy` and `RateLimit` with one structured item per window.
    Structured,
    /// `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset`.
    Fields,
    None,
}

#[derive(Clone, Debug)]
pub struct Answers {
    pub rate_limit_headers: RateLimitHeaders,
}

#[derive(Clone, Debug)]
pub struct Stop {
    /// How long `/readyz` says no while connections are still accepted.
    pub lame_duck: Duration,
    /// How long requests in flight may take at most; the process ends earlier when there are none.
    pub grace_period: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Which requests are logged one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    All,
    /// Only those that failed on our side or the upstream's.
    Errors,
    None,
}

#[derive(Clone, Debug)]
pub struct Log {
    pub format: LogFormat,
    /// A filter as in `info` or `info,gateway=debug`.
    pub filter: String,
    pub access: AccessLog,
}

impl Settings {
    /// Reads and checks a file. Errors: every fault of the file at once.
    pub fn read(path: &Path) -> Result<Settings, SettingsErrors> {
        reading::read(::settings::Reader::read_file(path)?)
    }

    /// The addresses that no upstream may be.
    pub fn own_listeners(&self) -> Vec<SocketAddr> {
        let https = self.listen.https.as_ref().map(|https| https.address);
        [Some(self.listen.http), https, Some(self.admin.listen)].into_iter().flatten().collect()
    }

    /// Every key that a settings file may have, dotted and sorted; for the test that keeps `config/gateway.toml` complete.
    pub fn known_keys() -> Vec<String> {
        reading::known_keys()
    }
}
