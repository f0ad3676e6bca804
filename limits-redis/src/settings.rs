//! Where limits are counted, as the section `[limits]` of either plane says it. Refuses passwords in the file, and URLs that
//! no connection could be made to.

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use ::settings::{Secret, Section};
use url::Url;

const SCHEMES: [&str; 4] = ["redis", "rediss", "unix", "redis+unix"];
const TLS_SCHEME: &str = "rediss";
/// Holds the URLs, several with commas, and goes before the file.
const VARIABLE: &str = "LIMITS_REDIS_URL";

#[derive(Clone, Debug)]
pub struct LimitsRedis {
    /// One Redis, the sentinels, or some nodes of the cluster. May carry passwords.
    pub urls: Vec<Secret>,
    pub kind: RedisKind,
    /// Certificates of those who sign for `rediss://`; `None`: the public ones.
    pub ca_file: Option<PathBuf>,
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
#[derive(Clone, Copy)]
enum Word {
    Single,
    Sentinel,
    Cluster,
}

impl LimitsRedis {
    /// Reads the section. `otherwise`: where usage is sent, which counts limits as well unless another Redis is named. `None`: there
    /// is none at all.
    pub fn take(section: &mut Section<'_>, otherwise: Option<&Secret>) -> Option<LimitsRedis> {
        let hidden = section.secret_beside("redis_urls", VARIABLE);
        let written = section.strings("redis_urls", &[]);
        if written.iter().any(|url| carries_password(url)) {
            section
                .fault("redis_urls", format!("carries a password; use `redis_urls_file` or the variable {VARIABLE}"));
        }
        let (key, urls) = match hidden {
            Some(urls) => ("redis_urls_file", urls.expose().split(',').map(|url| Secret::new(url.trim())).collect()),
            None => ("redis_urls", written.into_iter().map(Secret::new).collect::<Vec<Secret>>()),
        };
        let ca_file = section.optional_path("redis_ca_file");
        for fault in faults(&urls) {
            section.fault(key, fault);
        }
        let urls = if urls.is_empty() { otherwise.cloned().into_iter().collect() } else { urls };
        if ca_file.is_some() && !urls.iter().all(is_encrypted) {
            section.fault("redis_ca_file", "is for URLs that begin with rediss://");
        }
        let words = [("single", Word::Single), ("sentinel", Word::Sentinel), ("cluster", Word::Cluster)];
        let word = section.one_of("redis_kind", Word::Single, &words);
        let service = section.string("sentinel_service", "mymaster");
        let prefix = section.string("redis_prefix", "rl");
        if prefix.is_empty() || prefix.contains(['{', '}']) {
            section.fault("redis_prefix", "is a short text without braces");
        }
        let kind = match word {
            Word::Single => RedisKind::Single,
            Word::Sentinel => RedisKind::Sentinel { service },
            Word::Cluster => RedisKind::Cluster,
        };
        (!urls.is_empty()).then_some(LimitsRedis { urls, kind, ca_file, prefix })
    }

    /// Whether keys that are asked for together have to lie together.
    pub fn is_grouped(&self) -> bool {
        self.kind == RedisKind::Cluster
    }

    pub fn is_encrypted(&self) -> bool {
        self.urls.first().is_some_and(is_encrypted)
    }

    /// The set of the months' counts that gateways miss: they name them there, and control planes put them back.
    pub fn unseeded_key(&self) -> String {
        format!("{}:unseeded", self.prefix)
    }
}

/// None of them repeats a URL, which may carry a password.
fn faults(urls: &[Secret]) -> Vec<&'static str> {
    let has_scheme = |url: &Secret| Url::parse(url.expose()).is_ok_and(|url| SCHEMES.contains(&url.scheme()));
    let mut faults = Vec::new();
    if !urls.iter().all(has_scheme) {
        faults.push("each entry is a URL that begins with redis://, rediss:// or unix://, as in redis://host:6379");
    }
    let encrypted = urls.iter().filter(|url| is_encrypted(url)).count();
    if encrypted != 0 && encrypted != urls.len() {
        faults.push("either all entries begin with rediss:// or none");
    }
    faults
}

fn is_encrypted(url: &Secret) -> bool {
    Url::parse(url.expose()).is_ok_and(|url| url.scheme() == TLS_SCHEME)
}

fn carries_password(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| url.password().is_some())
}
