//! The fleet under test: real gateways, each with a link to Redis of its own that can be broken, and keys of one policy each.

use std::time::Duration;

use limits::bound::Bound;
use limits::policy::{Algorithm, OnRedisDown, Policy};
use limits::terms::Terms;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::fault_proxy::Target;
use crate::harness::{Catalog, Publisher, World, eventually};
use crate::load::{Log, Traffic, fire};

/// Requests per second and bucket of the plans under test.
pub const PER_SECOND: u32 = 40;
pub const BURST: u32 = 40;
/// A node that came back goes on alone for 550 ms.
const SETTLE: Duration = Duration::from_millis(700);

pub struct Fleet {
    pub world: World,
    pub gateways: usize,
    /// Of one phase.
    pub phase: Duration,
    publisher: Publisher,
    made: usize,
}

#[derive(Clone)]
pub struct Flooder {
    client: reqwest::Client,
    gateways: usize,
    traffic: Traffic,
}

impl Flooder {
    pub fn briefly(mut self) -> Flooder {
        self.traffic.duration = Duration::from_secs(1);
        self
    }

    /// At least so long.
    pub fn lasting(mut self, least: Duration) -> Flooder {
        self.traffic.duration = self.traffic.duration.max(least);
        self
    }

    pub async fn flood(&self, buyer: &Buyer, start: Instant) -> Log {
        let shots = self.traffic.shots(self.gateways, 1);
        fire(&self.client, &buyer.urls, &buyer.catalog.key, shots, start).await
    }
}

/// A key of its own, and the policy that its plan sells.
pub struct Buyer {
    pub catalog: Catalog,
    pub policy: Policy,
    pub urls: Vec<String>,
}

impl Buyer {
    /// How long a lease of this policy lives.
    pub fn lease(&self) -> Duration {
        Duration::from_nanos(Terms::of(&self.policy, 1).lease_ns)
    }
}

impl Fleet {
    /// As many gateways, and as long phases, as the environment asks for: three, and so short that all fit into a minute.
    pub async fn start() -> Fleet {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u32>().unwrap());
        let gateways = number("FLEET_GATEWAYS").unwrap_or(3) as usize;
        let phase = Duration::from_secs(u64::from(number("FLEET_SECONDS").unwrap_or(4)));
        let world = World::with().gateways(gateways).redis_links().start().await;
        let publisher = world.publisher("ann").await;
        let fleet = Fleet { world, gateways, phase, publisher, made: 0 };
        assert!(fleet.size().await as usize >= gateways, "there is room for every gateway that registered");
        fleet
    }

    /// For how many gateways the bounds are stated, by now.
    pub async fn size(&self) -> u32 {
        u32::try_from(self.world.count("SELECT fleet_max FROM feed_state").await).unwrap()
    }

    /// Somebody who bought a plan of this algorithm.
    pub async fn buyer(&mut self, algorithm: Algorithm, on_redis_down: OnRedisDown, more: Value) -> Buyer {
        let per_minute = PER_SECOND * 60;
        let words = match (algorithm, on_redis_down) {
            (Algorithm::TokenBucket, down) => ("token_bucket", Some(BURST), down),
            (Algorithm::SlidingWindow, down) => ("sliding_window", None, down),
            (Algorithm::FixedWindow, down) => ("fixed_window", None, down),
        };
        let down = match words.2 {
            OnRedisDown::FairShare => "fair_share",
            OnRedisDown::Open => "open",
            OnRedisDown::Closed => "closed",
        };
        // A window is used up within a phase; a bucket flows in all along.
        let rate = if algorithm == Algorithm::TokenBucket { per_minute } else { PER_SECOND * 2 };
        let policy = json!({ "algorithm": words.0, "burst_limit": words.1, "on_redis_down": down });
        let mut plan = json!({ "rate_limit": rate, "policy": policy });
        for (name, value) in more.as_object().unwrap() {
            plan[name] = value.clone();
        }
        self.made += 1;
        let upstream = self.world.upstream.url();
        let draft = self.publisher.product(&format!("p{}", self.made)).endpoint("GET", "/x", &upstream);
        let catalog = draft.plan(plan).publish().await;
        let policy = Policy::new(1, algorithm, rate, BURST).unwrap().on_redis_down(on_redis_down);
        let urls = self.world.gateways.iter().map(|gateway| format!("{}{}/x", gateway.url, catalog.path)).collect();
        Buyer { catalog, policy, urls }
    }

    pub async fn bucket_buyer(&mut self) -> Buyer {
        self.buyer(Algorithm::TokenBucket, OnRedisDown::FairShare, json!({})).await
    }

    /// Two and a half times the rate, most of it on one gateway, and a whole bucket at once every now and then.
    fn flood(&self) -> Traffic {
        Traffic {
            per_second: PER_SECOND * 2,
            to_first_permille: 600,
            burst: BURST,
            burst_every: Duration::from_secs(2),
            duration: self.phase,
        }
    }

    /// Floods keys for a phase, and borrows nothing of the fleet meanwhile, so that it can be broken.
    pub fn flooder(&self) -> Flooder {
        Flooder { client: self.world.client.clone(), gateways: self.gateways, traffic: self.flood() }
    }

    /// Postgres knows of so many admitted requests of this buyer.
    pub async fn wait_until_counted(&self, buyer: &Buyer, admitted: usize) {
        let sql = format!(
            "SELECT coalesce(sum(u.admitted_count), 0)::bigint FROM usage_quarter_hours u
             JOIN subscriptions s ON s.meter_id = u.subscription_meter_id WHERE s.id = '{}'",
            buyer.catalog.subscription
        );
        eventually("usage is in Postgres", || async {
            (self.world.count(&sql).await >= i64::try_from(admitted).unwrap()).then_some(())
        })
        .await;
    }

    /// Questions to Redis that were not answered in time, of all gateways.
    pub async fn unanswered(&self) -> f64 {
        self.sum("gateway_rate_limit_redis_failures_total").await
    }

    /// Times that a gateway began to count Redis as down, of all gateways.
    pub async fn outages(&self) -> f64 {
        self.sum("gateway_rate_limit_outages_total").await
    }

    async fn sum(&self, metric: &str) -> f64 {
        let mut sum = 0.0;
        for gateway in &self.world.gateways {
            sum += gateway.metric(metric).await;
        }
        sum
    }

    /// From here on each gateway counts alone, as if there were no other: what the judge has to find out.
    pub async fn stop_talking(&mut self) {
        let dir = self.world.dir().to_owned();
        // Back from wherever an earlier phase led them.
        self.world.redis_links.iter().for_each(|link| link.lead_to(Target::Unix(self.world.redis.socket())));
        for (nth, gateway) in self.world.gateways.iter_mut().enumerate() {
            let file = dir.join(format!("{}.toml", gateway.name));
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, format!("{text}[limits]\nredis_prefix = \"alone{nth}\"\n")).unwrap();
            gateway.role.kill();
            gateway.role.start_again();
        }
        for gateway in &self.world.gateways {
            gateway.role.ready().await;
        }
        self.settle().await;
    }

    /// Counts that the control plane has put back so far.
    pub async fn seeded(&self) -> u64 {
        let url = format!("{}/metrics", self.world.control_planes[0].url);
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("control_plane_quota_seed_seeded_total "));
        line.and_then(|figure| figure.parse().ok()).unwrap_or(0)
    }

    /// The bound with the terms that `faults` adds, for the size that the fleet had and has.
    pub async fn bound(&self, buyer: &Buyer, before: u32, faults: impl Fn(&Bound) -> f64) -> f64 {
        let of = |size: u32| {
            let bound = Bound::of(&buyer.policy, size);
            let base = match buyer.policy.algorithm() {
                Algorithm::TokenBucket => bound.base(),
                Algorithm::SlidingWindow | Algorithm::FixedWindow => bound.window(),
            };
            base + faults(&bound)
        };
        of(before).max(of(self.size().await))
    }

    /// When this gateway leases again, and has told what it spent meanwhile.
    pub async fn is_back(&self, nth: usize) -> Instant {
        let gateway = &self.world.gateways[nth];
        eventually("the gateway talks with Redis again", || async {
            let is_down = gateway.metric("gateway_rate_limit_lanes_down").await > 0.0;
            (gateway.metric("gateway_rate_limit_redis_connected").await == 1.0 && !is_down).then_some(())
        })
        .await;
        Instant::now() + SETTLE
    }

    /// Every gateway talks with Redis, and has done so for longer than it goes on alone after an outage.
    pub async fn settle(&self) {
        for nth in 0..self.gateways {
            self.is_back(nth).await;
        }
        tokio::time::sleep(SETTLE).await;
    }
}
