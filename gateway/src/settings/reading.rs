//! Reads each section of the file into its type: keys, defaults, ranges, and what must not stand together. It refuses to
//! open anything that the settings name, beside files of secrets.

use std::num::NonZeroU32;

use ::settings::{Reader, Secret, Section, SettingsErrors};
use limits_redis::LimitsRedis;

use super::{
    AccessLog, Admin, Answers, Client, Feed, Https, Limits, Listen, Log, LogFormat, Node, RateLimitHeaders, Settings,
    Stop, Upstream, Usage,
};
use crate::usage::OnFull;

/// More threads than this are a mistake on any machine that we know of.
const THREADS_MAX: u64 = 512;
/// An hour: nobody waits longer for one read or write.
const TIMEOUT_MS_MAX: u64 = 3_600_000;
/// A day: the longest silence worth keeping a connection for.
const IDLE_S_MAX: u64 = 86_400;
/// Less than a few of the spool's files is no spool; more than 16 TiB is a mistake.
const SPOOL_BYTES_LEAST: u64 = 67_108_864;
const SPOOL_BYTES_CEILING: u64 = 17_592_186_044_416;
/// The framework's own ceiling for a header is 1 MiB; HTTP/2 is held to 64 KiB.
const HEADER_BYTES_CEILING: u64 = 1_048_576;

const REDIS_SCHEMES: [&str; 4] = ["redis", "rediss", "unix", "redis+unix"];

pub(crate) fn read(mut reader: Reader) -> Result<Settings, SettingsErrors> {
    let settings = read_all(&mut reader);
    reader.finish().map(|()| settings)
}

pub(super) fn known_keys() -> Vec<String> {
    Reader::parse("gateway.toml", "").map_or_else(
        |_| Vec::new(),
        |mut reader| {
            read_all(&mut reader);
            reader.known_keys()
        },
    )
}

fn read_all(reader: &mut Reader) -> Settings {
    let threads = reader.section("").integer("threads", 0, 0..=THREADS_MAX);
    let usage = usage(&mut reader.section("usage"));
    let listen = listen(&mut reader.section("listen"));
    Settings {
        threads: match to_usize(threads) {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        },
        node: node(&mut reader.section("node")),
        admin: admin(&mut reader.section("admin"), &listen),
        listen,
        feed: feed(&mut reader.section("feed")),
        upstream: upstream(&mut reader.section("upstream")),
        client: client(&mut reader.section("client")),
        limits: limits(&mut reader.section("limits"), usage.redis_url.as_ref()),
        usage,
        answers: answers(&mut reader.section("answers")),
        stop: stop(&mut reader.section("stop")),
        log: log(&mut reader.section("log")),
        upgrade: false,
    }
}

fn node(section: &mut Section<'_>) -> Node {
    Node {
        name: section.optional_string("name").unwrap_or_else(host_name),
        data_dir: section.path("data_dir", "data/gateway"),
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(name.trim()).filter(|name| !name.is_empty()).unwrap_or("gateway").to_owned()
}

fn listen(section: &mut Section<'_>) -> Listen {
    let http = section.socket_addr("http", "0.0.0.0:8080");
    let address = section.optional_socket_addr("https");
    let files = (section.optional_path("certificate_file"), section.optional_path("key_file"));
    let https = match (address, files) {
        (Some(address), (Some(certificate_file), Some(key_file))) => {
            Some(Https { address, certificate_file, key_file })
        }
        (Some(_), _) => {
            section.fault("https", "needs `certificate_file` and `key_file`");
            None
        }
        (None, _) => None,
    };
    if address == Some(http) {
        section.fault("https", "is the address of `listen.http`; each listener needs its own");
    }
    Listen { http, https }
}

fn admin(section: &mut Section<'_>, clients: &Listen) -> Admin {
    let listen = section.socket_addr("listen", "127.0.0.1:9090");
    if clients.http == listen || clients.https.as_ref().is_some_and(|https| https.address == listen) {
        section.fault("listen", "is an address of `[listen]`; each listener needs its own");
    }
    Admin { listen }
}

fn feed(section: &mut Section<'_>) -> Feed {
    let control_planes = section.strings("control_planes", &[]);
    for url in &control_planes {
        if let Some(reason) = fault_of_control_plane(url) {
            section.fault("control_planes", reason);
        }
    }
    let token = section.secret("token", "APIHUB_FEED_TOKEN");
    if token.is_none() && !control_planes.is_empty() {
        section.fault("token_file", "is needed to follow a control plane; or set the variable APIHUB_FEED_TOKEN");
    }
    Feed { control_planes, token, ca_file: section.optional_path("ca_file") }
}

/// The token must not cross a network in the clear.
fn fault_of_control_plane(url: &str) -> Option<&'static str> {
    if url.starts_with("unix:/") || url.starts_with("https://") {
        return None;
    }
    let Some(rest) = url.strip_prefix("http://") else {
        return Some("each entry begins with unix:/, https:// or, on this machine, http://");
    };
    let local =
        ["127.", "localhost:", "localhost/", "[::1]"].iter().any(|host| rest.starts_with(host)) || rest == "localhost";
    (!local).then_some("http:// is for control planes on this machine alone; use https://")
}

fn usage(section: &mut Section<'_>) -> Usage {
    let written = section.optional_url("redis_url", &REDIS_SCHEMES);
    let from_environment = std::env::var("REDIS_URL").ok().filter(|url| !url.trim().is_empty());
    Usage {
        redis_url: from_environment.map(Secret::new).or_else(|| written.map(|url| Secret::new(url.as_str()))),
        stream: section.string("stream", "apihub:usage"),
        stream_length_max: section.integer("stream_length_max", 100_000, 100..=10_000_000),
        spool_bytes_max: section.integer("spool_bytes_max", 2_147_483_648, SPOOL_BYTES_LEAST..=SPOOL_BYTES_CEILING),
        on_usage_full: section.one_of(
            "on_usage_full",
            OnFull::Serve,
            &[("serve", OnFull::Serve), ("refuse", OnFull::Refuse)],
        ),
    }
}

fn upstream(section: &mut Section<'_>) -> Upstream {
    let mut allow = Vec::new();
    for text in section.strings("allow", &[]) {
        match text.parse() {
            Ok(range) => allow.push(range),
            Err(fault) => section.fault("allow", format!("{fault}")),
        }
    }
    Upstream {
        allow,
        ca_file: section.optional_path("ca_file"),
        connections_kept: to_usize(section.integer("connections_kept", 1_024, 0..=1_000_000)),
        connections_per_product_max: at_least_one(section.integer("connections_per_product_max", 5_000, 1..=1_000_000)),
        idle_timeout: section.duration_s("idle_timeout_s", 60, 1..=IDLE_S_MAX),
        connect_timeout: section.duration_ms("connect_timeout_ms", 5_000, 1..=TIMEOUT_MS_MAX),
        read_timeout: section.duration_ms("read_timeout_ms", 60_000, 1..=TIMEOUT_MS_MAX),
        write_timeout: section.duration_ms("write_timeout_ms", 30_000, 1..=TIMEOUT_MS_MAX),
    }
}

fn client(section: &mut Section<'_>) -> Client {
    Client {
        trusted_proxies: section.networks("trusted_proxies", &[]),
        header_timeout: section.duration_ms("header_timeout_ms", 10_000, 100..=TIMEOUT_MS_MAX),
        keepalive_timeout: section.duration_s("keepalive_timeout_s", 60, 1..=IDLE_S_MAX),
        read_timeout: section.duration_ms("read_timeout_ms", 30_000, 100..=TIMEOUT_MS_MAX),
        write_timeout: section.duration_ms("write_timeout_ms", 30_000, 100..=TIMEOUT_MS_MAX),
        tunnel_idle_timeout: section.duration_s("tunnel_idle_timeout_s", 600, 1..=IDLE_S_MAX),
        send_rate_bytes_min: to_usize(section.integer("send_rate_bytes_min", 500, 0..=1_000_000_000)),
        body_rate_bytes_min: section.integer("body_rate_bytes_min", 500, 0..=1_000_000_000),
        requests_per_connection_max: to_u32(section.integer("requests_per_connection_max", 100_000, 1..=4_294_967_295)),
        http2_idle_timeout: section.duration_s("http2_idle_timeout_s", 120, 1..=IDLE_S_MAX),
    }
}

fn limits(section: &mut Section<'_>, usage_url: Option<&Secret>) -> Limits {
    Limits {
        connections_max: to_usize(section.integer("connections_max", 50_000, 1..=10_000_000)),
        connections_per_address_max: to_usize(section.integer("connections_per_address_max", 10_000, 1..=10_000_000)),
        connection_rate_per_address_max: to_usize(section.integer("connection_rate_per_address_max", 0, 0..=1_000_000)),
        header_bytes_max: to_usize(section.integer("header_bytes_max", 65_536, 1_024..=HEADER_BYTES_CEILING)),
        header_count_max: to_usize(section.integer("header_count_max", 100, 8..=256)),
        target_bytes_max: to_usize(section.integer("target_bytes_max", 8_192, 256..=65_536)),
        body_bytes_max: section.integer("body_bytes_max", 10_737_418_240, 1..=u64::MAX),
        requests_per_product_max: at_least_one(section.integer("requests_per_product_max", 5_000, 1..=10_000_000)),
        redis: LimitsRedis::take(section, usage_url),
    }
}

fn answers(section: &mut Section<'_>) -> Answers {
    let choices = [
        ("structured", RateLimitHeaders::Structured),
        ("fields", RateLimitHeaders::Fields),
        ("none", RateLimitHeaders::None),
    ];
    Answers { rate_limit_headers: section.one_of("rate_limit_headers", RateLimitHeaders::Structured, &choices) }
}

fn stop(section: &mut Section<'_>) -> Stop {
    Stop {
        lame_duck: section.duration_ms("lame_duck_ms", 0, 0..=300_000),
        grace_period: section.duration_s("grace_period_s", 30, 0..=IDLE_S_MAX),
    }
}

fn log(section: &mut Section<'_>) -> Log {
    let access = [("all", AccessLog::All), ("errors", AccessLog::Errors), ("none", AccessLog::None)];
    Log {
        format: section.one_of("format", LogFormat::Text, &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        filter: section.string("filter", "info,pingora_core=warn,pingora_proxy=warn"),
        access: section.one_of("access", AccessLog::Errors, &access),
    }
}

/// All ranges above fit; a machine with a narrower `usize` gets its largest value.
fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn at_least_one(value: u64) -> NonZeroU32 {
    NonZeroU32::new(to_u32(value)).unwrap_or(NonZeroU32::MIN)
}

fn to_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
