//! The whole line, as a table: each request with what it gets. The limiter, the snapshot and the filters are the real ones.

mod admitted;
mod cors;
mod refused;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use snapshot::key::{Environment, MintedKey};
use snapshot::wire;

use super::{Admitted, Decision, EdgeRules, Rejected, RequestHead, decide};
use crate::clock::Now;
use crate::limiter::Limiter;
use crate::live::Snapshot;
use crate::live::fixtures::{self, IntoRecord, plan, product, subscription, token};
use crate::rejection::Rejection;

/// Some day in 2023.
const NOW: Now = Now { mono_us: 1_000_000_000, unix_ms: 1_700_000_000_000 };

/// Product 1 with a subscription (11, plan 10), a live and a test key; product 2 with a subscription (12) and its key.
struct House {
    records: Vec<wire::Record>,
    limiter: Limiter,
    rules: EdgeRules,
    live: MintedKey,
    test: MintedKey,
    of_other_product: MintedKey,
}

impl House {
    fn new() -> House {
        let mut scoped = fixtures::endpoint("DELETE", "/users/{id}", "http://10.0.0.1:9000/u/{id}");
        scoped.scope = "admin".to_owned();
        let mut first = product(1);
        first.endpoints.push(scoped);
        let [live, test, of_other_product] =
            [Environment::Live, Environment::Test, Environment::Live].map(fixtures::minted);
        let records = vec![
            first.record(),
            product(2).record(),
            plan(10, 100).record(),
            subscription(11, 1, 10).record(),
            subscription(12, 2, 10).record(),
            fixtures::key(21, 11, &live).record(),
            fixtures::key(22, 11, &test).record(),
            fixtures::key(23, 12, &of_other_product).record(),
        ];
        House { records, limiter: Limiter::alone(), rules: EdgeRules::default(), live, test, of_other_product }
    }

    fn with(mut self, record: impl IntoRecord) -> House {
        self.records.push(record.record());
        self
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(Snapshot::build(token(1), self.records.clone()).0)
    }

    fn decide(&self, request: &Request) -> Result<Decision, Box<Rejected>> {
        self.decide_at(request, NOW)
    }

    fn decide_at(&self, request: &Request, now: Now) -> Result<Decision, Box<Rejected>> {
        let method = Method::from_bytes(request.method.as_bytes()).unwrap();
        let peer = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 5));
        let head =
            RequestHead::read(&method, request.version, request.target.as_bytes(), None, &request.headers, peer)?;
        decide(&head, &self.snapshot(), &self.limiter, now, &self.rules)
    }

    fn admit(&self, request: &Request) -> Admitted {
        match self.decide(request) {
            Ok(Decision::Admitted(admitted)) => *admitted,
            Ok(Decision::Answer(_)) => panic!("a preflight"),
            Ok(Decision::Undecided(_)) => panic!("alone there is nobody to ask"),
            Err(rejected) => panic!("{:?}", rejected.rejection),
        }
    }

    fn refuse(&self, request: &Request) -> Rejected {
        match self.decide(request) {
            Err(rejected) => *rejected,
            Ok(_) => panic!("it was not refused"),
        }
    }

    fn refusal(&self, request: &Request) -> Rejection {
        self.refuse(request).rejection
    }
}

struct Request {
    method: &'static str,
    version: Version,
    target: String,
    headers: HeaderMap,
}

fn get(target: &str) -> Request {
    let request =
        Request { method: "GET", version: Version::HTTP_11, target: target.to_owned(), headers: HeaderMap::new() };
    request.header("host", "gateway.example")
}

impl Request {
    fn method(mut self, method: &'static str) -> Request {
        self.method = method;
        self
    }

    fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        self
    }

    fn key(self, key: &MintedKey) -> Request {
        self.header("x-api-key", key.reveal())
    }
}
