//! What a question costs Redis, in its own count of the time that calls take. Not a test of anything: run by hand, beside a
//! reference, for a busy machine slows both alike.

use limits::policy::Algorithm;
use limits::script::{self, Lane, SEED};
use limits::wire::{Ask, QuotaAsk};
use redis::Connection;
use servers::PrivateRedis;

use crate::node::{Node, ask, fcall, load};
use crate::rig::{connect, tell};

const KEYS: u64 = 2_000;
/// Many short rounds: the least of them was disturbed least.
const ROUNDS: usize = 80;
const OPERATIONS: usize = 1_500;

/// Microseconds that Redis spent in the named commands.
fn spent_us(connection: &mut Connection, commands: &[&str]) -> f64 {
    let stats: String = tell(connection, "INFO commandstats");
    let of = |name: &str| {
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{name}:")));
        let us = line.and_then(|line| line.split("usec=").nth(1)).and_then(|rest| rest.split(',').next());
        us.and_then(|us| us.parse::<f64>().ok()).unwrap_or(0.0)
    };
    commands.iter().map(|name| of(name)).sum()
}

/// Least and median of several rounds, each of which makes so many operations and says how many they were.
fn measure(
    connection: &mut Connection,
    commands: &[&str],
    mut round: impl FnMut(&mut Connection) -> usize,
) -> (f64, f64) {
    let mut costs: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            tell::<()>(connection, "CONFIG RESETSTAT");
            let operations = round(connection);
            spent_us(connection, commands) / f64::from(u32::try_from(operations).unwrap())
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    (costs[0], costs[ROUNDS / 2])
}

#[test]
#[ignore = "a measurement"]
fn redis_cpu_of_a_key_operation() {
    let dir = tempfile::Builder::new().prefix("limits-cost").tempdir_in("/tmp").unwrap();
    let server = PrivateRedis::start(dir.path(), false).unwrap();
    let mut connection = connect(&server.url());
    load().query::<()>(&mut connection).unwrap();
    let plain = measure(&mut connection, &["incrby", "pexpire"], |connection| {
        let mut pipe = redis::pipe();
        (0..1_000).for_each(|key| {
            pipe.cmd("INCRBY").arg(key).arg(1).ignore().cmd("PEXPIRE").arg(key).arg(60_000).ignore();
        });
        pipe.query::<()>(connection).unwrap();
        1_000
    });
    println!("reference, INCRBY and PEXPIRE in a pipeline: {:.2} us at least, {:.2} median", plain.0, plain.1);
    let quota = Some(QuotaAsk { period: 1, included: 1 << 40, hard: true });
    let bucket = Ask { per_minute: 600_000, burst: 100_000, want: 5, ..ask(0) };
    let window = Ask { per_minute: 100_000, ..bucket };
    for (kind, terms) in [
        ("token bucket", bucket),
        ("token bucket, month, debt", Ask { quota, debt: 1, ..bucket }),
        ("sliding window", Ask { algorithm: Algorithm::SlidingWindow, ..window }),
        ("fixed window", Ask { algorithm: Algorithm::FixedWindow, ..window }),
    ] {
        tell::<()>(&mut connection, "FLUSHALL");
        let mut node = Node::new(Lane::Whole);
        node.say(&mut connection, Vec::new());
        if terms.quota.is_some() {
            (0..KEYS)
                .for_each(|key| fcall(SEED, &script::seed("rl", 2 * key, 1, 0)).query::<()>(&mut connection).unwrap());
        }
        for batch in [1, 10, 100, 128_usize] {
            let mut key = 0;
            let (least, median) = measure(&mut connection, &["fcall"], |connection| {
                let calls = OPERATIONS / batch / if batch == 1 { 6 } else { 1 };
                for _ in 0..calls {
                    let asks = (0..batch).map(|_| {
                        key = (key + 7) % KEYS;
                        Ask { key: 2 * key, ..terms }
                    });
                    let reply = node.say(connection, asks.collect());
                    assert_eq!(reply.grants.len(), batch);
                }
                calls * batch
            });
            println!("{kind}, {batch} keys a call: {least:.2} us at least, {median:.2} median");
        }
    }
}
