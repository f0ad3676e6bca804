//! What an operator may set, parsed once into types that the rooms behind need not check again. Secrets come from the
//! environment or from files of their own. Refuses unknown keys, and a file that contradicts itself.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use limits_redis::LimitsRedis;
use rust_decimal::Decimal;
use settings::{Reader, Secret, Section, SettingsErrors};
use snapshot::guard::{AddressPolicy, AllowedRange};
use url::{Host, Url};

use crate::billing::account::RECORD_DAYS_MIN;
use crate::postgres::{Link, LinkFault};

#[cfg(test)]
mod tests;

/// One bound for every kind of retention: ten years, in days.
const RETENTION_DAYS_MAX: u64 = 3660;
/// Digits after the point that the database keeps of the platform's fee.
const FEE_DIGITS_MAX: u32 = 4;
/// The longest session, in seconds: 90 days.
const SESSION_S_MAX: u64 = 90 * 24 * 3600;

#[derive(Clone, Debug)]
pub struct Settings {
    pub rest: Rest,
    pub sessions: Sessions,
    pub database: Database,
    pub feed: Feed,
    pub usage: Usage,
    /// Where the gateways count limits. `None`: lost quota counts are not put back, for there are none.
    pub limits_redis: Option<LimitsRedis>,
    pub gateway_url: Url,
    pub keys: Keys,
    pub upstream: AddressPolicy,
    pub logs: Logs,
    pub retention: Retention,
    pub billing: Billing,
}

/// What the platform takes, and how long it waits.
#[derive(Clone, Copy, Debug)]
pub struct Billing {
    /// Of what a publisher charges.
    pub fee_percent: Decimal,
    /// From the issue of an invoice to its due date.
    pub due_days: u16,
    /// From the due date until the gateways answer 402.
    pub grace_days: u16,
    /// Whether operators may move billing time.
    pub simulation_clock: bool,
}

#[derive(Clone, Debug)]
pub struct Rest {
    pub listen: SocketAddr,
    /// Where browsers reach this control plane; its origin may send mutations with a session. `None`: the request's own host.
    pub public_url: Option<Url>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    pub request_timeout: Duration,
    pub body_bytes_max: usize,
    /// How long a stop waits for requests in flight.
    pub stop_timeout: Duration,
    /// Open connections; further ones wait in the system's queue until one closes.
    pub connections_max: usize,
    /// From one address that is no trusted proxy; further ones are closed.
    pub connections_per_address_max: usize,
    /// For a whole request header, and so for how long a connection may idle between two requests.
    pub header_timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct Sessions {
    pub ttl: Duration,
    /// A plain cookie without `Secure`, for http on a loopback address only.
    pub insecure_cookies: bool,
    pub registration_open: bool,
}

#[derive(Clone, Debug)]
pub struct Database {
    pub url: Secret,
    /// The authorities of the server's certificate. With them it must have one.
    pub ca_file: Option<PathBuf>,
    pub pool_size: usize,
    pub migrate_at_start: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedListen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Debug)]
pub struct Feed {
    pub listen: FeedListen,
    /// What a gateway shows; needed everywhere but on a unix socket.
    pub token: Option<Secret>,
    /// Certificate chain and key; needed beyond loopback.
    pub tls: Option<FeedTls>,
}

#[derive(Clone, Debug)]
pub struct FeedTls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Usage {
    /// `None`: usage is not consumed, and health says so.
    pub redis_url: Option<Secret>,
    pub stream: String,
    pub group: String,
    pub consumer: String,
    /// How many take from the stream at once, each with a connection to Postgres.
    pub consumers: usize,
    /// One request in so many gets a row in `usage_logs`; 0: none. Counts and bills hold every one.
    pub log_one_in: u64,
}

#[derive(Clone, Debug)]
pub struct Keys {
    pub brand: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug)]
pub struct Logs {
    pub format: LogFormat,
    pub filter: String,
}

#[derive(Clone, Debug)]
pub struct Retention {
    pub usage_log_days: u32,
    pub usage_minute_days: u32,
    pub usage_quarter_hour_days: u32,
    pub usage_hour_days: u32,
    pub ingest_failure_days: u32,
    pub config_change_days: u32,
}

impl Settings {
    pub fn read_file(path: &Path) -> Result<Settings, SettingsErrors> {
        Settings::from_reader(Reader::read_file(path)?)
    }

    /// Takes every key, so that `finish` tells all faults at once.
    pub fn from_reader(mut reader: Reader) -> Result<Settings, SettingsErrors> {
        let settings = Settings::take(&mut reader);
        reader.finish()?;
        Ok(settings)
    }

    fn take(reader: &mut Reader) -> Settings {
        let rest = take_rest(&mut reader.section("rest"));
        let feed = take_feed(&mut reader.section("feed"));
        let gateway_url = reader.section("gateway").url("public_url", "http://127.0.0.1:8080", &["http", "https"]);
        let usage = take_usage(&mut reader.section("usage"));
        let own_listeners = own_listeners(&rest, &feed, &gateway_url);
        Settings {
            sessions: take_sessions(&mut reader.section("sessions"), &rest),
            database: take_database(&mut reader.section("database")),
            limits_redis: LimitsRedis::take(&mut reader.section("limits"), usage.redis_url.as_ref()),
            usage,
            keys: take_keys(&mut reader.section("keys")),
            upstream: AddressPolicy { allow: take_allowed(&mut reader.section("upstream")), own_listeners },
            logs: take_logs(&mut reader.section("logs")),
            retention: take_retention(&mut reader.section("retention")),
            billing: take_billing(&mut reader.section("billing")),
            rest,
            feed,
            gateway_url,
        }
    }
}

impl Database {
    pub fn link(&self) -> Result<Link, LinkFault> {
        Link::read(self.url.expose(), self.ca_file.as_deref())
    }
}

fn take_rest(section: &mut Section<'_>) -> Rest {
    Rest {
        listen: section.socket_addr("listen", "127.0.0.1:8081"),
        public_url: section.optional_url("public_url", &["http", "https"]),
        trusted_proxies: section.networks("trusted_proxies", &[]),
        // A write that waits for the gateways may take 30 s of its own.
        request_timeout: section.duration_s("request_timeout_s", 40, 35..=300),
        body_bytes_max: size(section.integer("body_bytes_max", 64 * 1024, 1024..=1024 * 1024)),
        stop_timeout: section.duration_s("stop_timeout_s", 30, 0..=600),
        connections_max: size(section.integer("connections_max", 1024, 1..=100_000)),
        connections_per_address_max: size(section.integer("connections_per_address_max", 256, 1..=100_000)),
        header_timeout: section.duration_ms("header_timeout_ms", 10_000, 10..=300_000),
    }
}

fn take_sessions(section: &mut Section<'_>, rest: &Rest) -> Sessions {
    let insecure_cookies = section.boolean("insecure_cookies", false);
    if insecure_cookies && !rest.listen.ip().is_loopback() {
        section.fault("insecure_cookies", "is for a loopback address only, and `rest.listen` is not one");
    }
    Sessions {
        ttl: section.duration_s("ttl_s", 14 * 24 * 3600, 300..=SESSION_S_MAX),
        insecure_cookies,
        registration_open: section.boolean("registration_open", true),
    }
}

fn take_database(section: &mut Section<'_>) -> Database {
    let url = section.secret("url", "DATABASE_URL");
    let plain = section.optional_string("plain_url");
    if plain.as_deref().is_some_and(carries_password) {
        section.fault("plain_url", "carries a password; use `url_file` or the environment variable DATABASE_URL");
    }
    let url = url.or_else(|| plain.map(Secret::new));
    if url.is_none() {
        section.fault("", "needs `url_file`, `plain_url` or the environment variable DATABASE_URL");
    }
    let ca_file = section.optional_path("ca_file");
    if let Some(fault) = url.as_ref().and_then(|url| Link::read(url.expose(), ca_file.as_deref()).err()) {
        section.fault(if ca_file.is_some() { "ca_file" } else { "" }, fault.to_string());
    }
    Database {
        url: url.unwrap_or_else(|| Secret::new("")),
        ca_file,
        pool_size: size(section.integer("pool_size", 16, 2..=500)),
        migrate_at_start: section.boolean("migrate_at_start", true),
    }
}

fn carries_password(url: &str) -> bool {
    url.contains("password=") || Url::parse(url).is_ok_and(|url| url.password().is_some())
}

fn take_feed(section: &mut Section<'_>) -> Feed {
    let listen = take_feed_listen(section);
    let token = section.secret("token", "APIHUB_FEED_TOKEN");
    let tls = match (section.optional_path("certificate_file"), section.optional_path("key_file")) {
        (Some(certificate), Some(key)) => Some(FeedTls { certificate, key }),
        (None, None) => None,
        (Some(_), None) => {
            section.fault("key_file", "is needed beside `certificate_file`");
            None
        }
        (None, Some(_)) => {
            section.fault("certificate_file", "is needed beside `key_file`");
            None
        }
    };
    if let FeedListen::Tcp(address) = &listen {
        if token.is_none() {
            section.fault("", "needs `token_file` or the environment variable APIHUB_FEED_TOKEN to listen on TCP");
        }
        if !address.ip().is_loopback() && tls.is_none() {
            section.fault("listen", "is not a loopback address, so `certificate_file` and `key_file` are needed");
        }
    }
    Feed { listen, token, tls }
}

fn take_feed_listen(section: &mut Section<'_>) -> FeedListen {
    let text = section.string("listen", "127.0.0.1:8082");
    match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => return FeedListen::Unix(PathBuf::from(path)),
        Some(_) => {
            section.fault("listen", "`unix:` is followed by an absolute path, as in `unix:/run/apihub/feed.sock`")
        }
        None => match text.parse() {
            Ok(address) => return FeedListen::Tcp(address),
            Err(_) => section.fault("listen", "must be an IP address with a port, or `unix:` and an absolute path"),
        },
    }
    FeedListen::Unix(PathBuf::new())
}

fn take_usage(section: &mut Section<'_>) -> Usage {
    let url = section.secret("redis_url", "REDIS_URL");
    let plain = section.optional_string("plain_redis_url");
    if plain.as_deref().is_some_and(carries_password) {
        section.fault("plain_redis_url", "carries a password; use `redis_url_file` or the variable REDIS_URL");
    }
    Usage {
        redis_url: url.or_else(|| plain.map(Secret::new)),
        stream: section.string("stream", "apihub:usage"),
        group: section.string("group", "control-plane"),
        consumer: section.string("consumer", "control-plane-1"),
        consumers: size(section.integer("consumers", 2, 1..=16)),
        log_one_in: section.integer("log_one_in", 1, 0..=1_000_000),
    }
}

fn take_keys(section: &mut Section<'_>) -> Keys {
    let brand = section.string("brand", "hub");
    let is_good =
        (1..=16).contains(&brand.len()) && brand.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !is_good {
        section.fault("brand", "must be 1 to 16 lower-case letters or digits");
    }
    Keys { brand }
}

fn take_allowed(section: &mut Section<'_>) -> Vec<AllowedRange> {
    let mut allow: Vec<AllowedRange> = Vec::new();
    for text in section.strings("allow", &[]) {
        match text.parse() {
            Ok(range) => allow.push(range),
            Err(fault) => section.fault("allow", format!("{fault}")),
        }
    }
    allow
}

/// What publishers may not name as a target even inside an allowed range, as far as this control plane knows it; the gateways
/// know their own.
fn own_listeners(rest: &Rest, feed: &Feed, gateway_url: &Url) -> Vec<SocketAddr> {
    let feed = match feed.listen {
        FeedListen::Tcp(address) => Some(address),
        FeedListen::Unix(_) => None,
    };
    let gateway_ip = match gateway_url.host() {
        Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
        Some(Host::Domain(_)) | None => None,
    };
    let gateway = gateway_ip.zip(gateway_url.port_or_known_default()).map(SocketAddr::from);
    [Some(rest.listen), feed, gateway].into_iter().flatten().collect()
}

fn take_logs(section: &mut Section<'_>) -> Logs {
    Logs {
        format: section.one_of("format", LogFormat::Text, &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        filter: section.string("filter", "info"),
    }
}

fn take_retention(section: &mut Section<'_>) -> Retention {
    Retention {
        usage_log_days: days(section.integer("usage_log_days", 30, 1..=RETENTION_DAYS_MAX)),
        usage_minute_days: days(section.integer("usage_minute_days", 7, 1..=RETENTION_DAYS_MAX)),
        // A month that is billed late, and its invoice disputed, is still there.
        usage_quarter_hour_days: days(section.integer(
            "usage_quarter_hour_days",
            460,
            RECORD_DAYS_MIN..=RETENTION_DAYS_MAX,
        )),
        usage_hour_days: days(section.integer("usage_hour_days", 400, 62..=RETENTION_DAYS_MAX)),
        ingest_failure_days: days(section.integer("ingest_failure_days", 90, 1..=RETENTION_DAYS_MAX)),
        config_change_days: days(section.integer("config_change_days", 7, 1..=RETENTION_DAYS_MAX)),
    }
}

fn take_billing(section: &mut Section<'_>) -> Billing {
    let text = section.string("fee_percent", "0");
    let fee_percent = text.parse::<Decimal>().ok().filter(|fee| {
        *fee >= Decimal::ZERO && *fee <= Decimal::ONE_HUNDRED && fee.normalize().scale() <= FEE_DIGITS_MAX
    });
    if fee_percent.is_none() {
        section.fault(
            "fee_percent",
            "must be a number from 0 to 100 with 4 digits after the point at most, as in \"2.5\"",
        );
    }
    Billing {
        fee_percent: fee_percent.unwrap_or_default(),
        due_days: short(section.integer("due_days", 14, 0..=365)),
        grace_days: short(section.integer("grace_days", 7, 0..=365)),
        simulation_clock: section.boolean("simulation_clock", false),
    }
}

fn short(value: u64) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

/// The ranges above keep every value far below the type's end.
fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn days(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
