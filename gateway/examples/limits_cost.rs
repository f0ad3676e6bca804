//! What limits across a fleet cost a gateway: so many requests a second over so many keys are asked of a limiter on a real Redis, or
//! are not. Run under callgrind by `benches/load/limits`, which counts instructions.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)] // A program for benchmarks alone.

#[path = "../../benches/shared/fleet.rs"]
mod fleet;
#[path = "../../benches/shared/pace.rs"]
mod pace;

use std::num::NonZeroU32;

use fleet::Fleet;
use gateway::clock::Now;
use gateway::limiter::{Checked, Limiter, Terms};
use snapshot::record::{Algorithm, OnRedisDown, Policy};

/// Of the keys' order.
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

struct Options {
    /// Whether the limiter is asked at all.
    on: bool,
    per_second: u64,
    seconds: u64,
    keys: u64,
    /// Requests a minute and burst of each key's plan.
    per_minute: u32,
    burst: u32,
    gateways: u32,
}

/// `limits_cost on|off REQUESTS_A_SECOND SECONDS KEYS PER_MINUTE BURST GATEWAYS`
fn main() {
    let words: Vec<String> = std::env::args().collect();
    let number = |at: usize| words[at].parse::<u64>().unwrap();
    let small = |at: usize| u32::try_from(number(at)).unwrap();
    let options = Options {
        on: words[1] == "on",
        per_second: number(2),
        seconds: number(3),
        keys: number(4),
        per_minute: small(5),
        burst: small(6),
        gateways: small(7),
    };
    let fleet = Fleet::start();
    let (asked, unknown) = ask(&options, &fleet.limiter);
    let operations = fleet.metrics.limits.redis_operations_total.get();
    let batches = fleet.metrics.limits.redis_batches_total.get();
    println!("{{\"asked\": {asked}, \"unknown\": {unknown}, \"operations\": {operations}, \"batches\": {batches}}}");
}

/// Requests that were made, and how many of them only Redis could have decided.
fn ask(options: &Options, limiter: &Limiter) -> (u64, u64) {
    let mut terms: Vec<Terms> = (1..=options.keys).map(|meter_id| terms(options, meter_id)).collect();
    let (mut unknown, mut dice, mut first) = (0, SEED, 0..options.keys);
    let asked = pace::paced(options.per_second, options.seconds, || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Each once at first, so that none is opened later on.
        let nth = usize::try_from(first.next().unwrap_or((dice >> 33) % options.keys)).unwrap();
        if options.on {
            let checked = limiter.check(std::hint::black_box(&terms[nth]), Now::read());
            unknown += u64::from(matches!(checked, Checked::Unknown(..)));
        } else {
            std::hint::black_box((&mut terms[nth], Now::read()));
        }
    });
    (asked, unknown)
}

fn terms(options: &Options, meter_id: u64) -> Terms {
    let rate = |value| NonZeroU32::new(value).unwrap();
    let policy = Policy {
        algorithm: Algorithm::TokenBucket,
        per_minute: rate(options.per_minute),
        burst: rate(options.burst),
        on_redis_down: OnRedisDown::FairShare,
        strict: false,
    };
    Terms { key: meter_id * 2, policy, month: None, fleet: options.gateways, origin: Default::default() }
}
