//! The gateway's own decision on a table: a snapshot, a limiter and request heads of each kind of answer. No client's socket and
//! no proxy.
#![allow(dead_code)] // Each program uses a part of it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::clock::Now;
use gateway::decide::{Decision, EdgeRules, Rejected, RequestHead, decide};
use gateway::limiter::Limiter;
use gateway::live::Snapshot;
use http::{HeaderMap, HeaderValue, Method, Version};
use snapshot::token::Token;
use uuid::Uuid;

use super::catalog::{Opens, PATH, Size, records};

/// Keys that requests are sent with, in turn: more than any cache of a processor makes free.
const KEYS_KEPT: u64 = 10_000;
/// Redis says that a plan is used up long before.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Scene {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) limiter: Arc<Limiter>,
    rules: EdgeRules,
    /// With a key that is served each, spread over all there are.
    served: Vec<HeaderMap>,
    /// With the key whose plan is used up.
    spent: HeaderMap,
    unknown: HeaderMap,
    without_key: HeaderMap,
}

/// What a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Admitted,
    UnknownKey,
    MissingKey,
    NoRoute,
    RateLimited,
}

impl Scene {
    pub(crate) fn of(size: Size, limiter: Arc<Limiter>) -> Scene {
        let stride = (size.keys / KEYS_KEPT).max(1);
        let (mut kept, mut last) = (Vec::new(), String::new());
        let token = Token { epoch: Uuid::from_u128(1), revision: 1 };
        let keep = |number, opens, key: String| match opens {
            Opens::CalledOnce => last = key,
            Opens::Called if number % stride == 0 => kept.push(headers(Some(&key))),
            _ => {}
        };
        let upstream = "http://10.0.0.1:9000";
        let (snapshot, refusals) = Snapshot::build(token, records(size, upstream, upstream, keep));
        assert!(refusals.is_empty(), "{refusals:?}");
        let scene = Scene {
            snapshot: Arc::new(snapshot),
            limiter,
            rules: EdgeRules::default(),
            served: kept,
            spent: headers(Some(&last)),
            unknown: headers(Some(snapshot::key::mint("hub", snapshot::key::Environment::Live).unwrap().reveal())),
            without_key: headers(None),
        };
        scene.warm();
        scene
    }

    /// Makes every limiter's slot, and uses the small plan up.
    fn warm(&self) {
        let now = Now::read();
        (0..self.served.len()).for_each(|turn| drop(self.decide(Kind::Admitted, turn, now)));
        let began = Instant::now();
        while status(&self.ask(PATH, &self.spent, Now::read())) != 429 {
            assert!(began.elapsed() < PATIENCE, "a plan for one request a minute is never used up");
            std::thread::sleep(Duration::from_millis(1));
        }
        for kind in [Kind::Admitted, Kind::UnknownKey, Kind::MissingKey, Kind::NoRoute, Kind::RateLimited] {
            assert_eq!(status(&self.decide(kind, 0, now)), expected(kind));
        }
    }

    pub(crate) fn decide(&self, kind: Kind, turn: usize, now: Now) -> Result<Decision, Box<Rejected>> {
        let path = if kind == Kind::NoRoute { "/bench/api/nothing/here" } else { PATH };
        self.ask(path, self.headers_of(kind, turn), now)
    }

    pub(crate) fn headers_of(&self, kind: Kind, turn: usize) -> &HeaderMap {
        match kind {
            Kind::Admitted | Kind::NoRoute => &self.served[turn % self.served.len()],
            Kind::UnknownKey => &self.unknown,
            Kind::MissingKey => &self.without_key,
            Kind::RateLimited => &self.spent,
        }
    }

    fn ask(&self, path: &str, headers: &HeaderMap, now: Now) -> Result<Decision, Box<Rejected>> {
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let head = RequestHead::read(&Method::GET, Version::HTTP_11, path.as_bytes(), None, headers, peer)?;
        decide(&head, &self.snapshot, &self.limiter, now, &self.rules)
    }
}

pub(crate) fn status(decision: &Result<Decision, Box<Rejected>>) -> u16 {
    match decision {
        Ok(_) => 200,
        Err(rejected) => rejected.rejection.status(),
    }
}

fn expected(kind: Kind) -> u16 {
    match kind {
        Kind::Admitted => 200,
        Kind::UnknownKey | Kind::MissingKey => 401,
        Kind::NoRoute => 404,
        Kind::RateLimited => 429,
    }
}

fn headers(key: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("127.0.0.1:8080"));
    headers.insert("user-agent", HeaderValue::from_static("bench"));
    if let Some(key) = key {
        headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {key}")).unwrap());
    }
    headers
}
