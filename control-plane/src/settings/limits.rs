//! Where the gateways count limits, as their own settings name it. Refuses passwords in the file.

use settings::{Secret, Section};

use super::{Usage, carries_password};

#[derive(Clone, Debug)]
pub struct Limits {
    /// Where the gateways count. `None`: lost quota counts are not put back, for there are none.
    pub redis: Option<LimitsRedis>,
}

#[derive(Clone, Debug)]
pub struct LimitsRedis {
    /// One Redis, the sentinels, or some nodes of the cluster.
    pub urls: Vec<Secret>,
    pub kind: RedisKind,
    /// In front of every key.
    pub prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisKind {
    Single,
    /// `service`: the name under which the sentinels know the master.
    Sentinel {
        service: String,
    },
    Cluster,
}

/// As the file says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RedisIs {
    Single,
    Sentinel,
    Cluster,
}

/// The same Redis as usage's, unless another one is named.
pub(super) fn take(section: &mut Section<'_>, usage: &Usage) -> Limits {
    let given = section.secret("redis_urls", "LIMITS_REDIS_URL");
    let plain = section.strings("plain_redis_urls", &[]);
    if plain.iter().any(|url| carries_password(url)) {
        section.fault("plain_redis_urls", "carries a password; use `redis_urls_file` or the variable LIMITS_REDIS_URL");
    }
    let urls: Vec<Secret> = match given {
        Some(urls) => urls.expose().split(',').map(|url| Secret::new(url.trim())).collect(),
        None if plain.is_empty() => usage.redis_url.iter().cloned().collect(),
        None => plain.into_iter().map(Secret::new).collect(),
    };
    let kinds = [("single", RedisIs::Single), ("sentinel", RedisIs::Sentinel), ("cluster", RedisIs::Cluster)];
    let kind = section.one_of("redis_kind", RedisIs::Single, &kinds);
    let service = section.string("sentinel_service", "mymaster");
    let prefix = section.string("redis_prefix", "rl");
    if prefix.is_empty() || prefix.contains(['{', '}']) {
        section.fault("redis_prefix", "is a short text without braces");
    }
    let kind = match kind {
        RedisIs::Single => RedisKind::Single,
        RedisIs::Sentinel => RedisKind::Sentinel { service },
        RedisIs::Cluster => RedisKind::Cluster,
    };
    Limits { redis: (!urls.is_empty()).then_some(LimitsRedis { urls, kind, prefix }) }
}
