//! Traffic at given moments, whether the last answer has come or not, and what became of it by the client's own clock. Skewed
//! and bursting, and the same in every run. Refuses to judge.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::exact::Admission;

/// An answer of a gateway takes a few milliseconds; where a tenth of them takes so much longer, the machine does not keep pace.
const KEEPS_PACE: Duration = Duration::from_millis(60);

/// Steady traffic, most of it to the first gateway, and bursts to all of them.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    pub per_second: u32,
    /// Of a thousand requests, how many go to the first gateway; the others share the rest.
    pub to_first_permille: u64,
    /// So many within 20 ms, on all gateways alike.
    pub burst: u32,
    pub burst_every: Duration,
    pub duration: Duration,
}

#[derive(Clone, Copy, Debug)]
pub struct Shot {
    pub at: Duration,
    pub gateway: usize,
}

/// What became of the requests of one key.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// When each request was sent that got an answer of the limiter.
    pub offered: Vec<Duration>,
    pub admitted: Vec<Admission>,
    /// The gateway of each admission, beside it.
    pub gateways: Vec<usize>,
    pub refused: usize,
    /// From the moment of each of these requests to its answer: what was sent late counts as slow.
    pub took: Vec<Duration>,
    /// Neither admitted nor refused, by status; 0: no answer, for the gateway was gone.
    pub failed: BTreeMap<u16, usize>,
}

impl Traffic {
    pub fn shots(self, gateways: usize, seed: u64) -> Vec<Shot> {
        let mut dice = Dice(seed);
        let mut shots = Vec::new();
        let mean_us = 1_000_000 / u64::from(self.per_second.max(1));
        let mut at = Duration::ZERO;
        loop {
            at += Duration::from_micros(dice.below(2 * mean_us + 1));
            if at >= self.duration {
                break;
            }
            let first = dice.below(1_000) < self.to_first_permille || gateways == 1;
            let gateway = if first { 0 } else { 1 + index(dice.below(gateways as u64 - 1)) };
            shots.push(Shot { at, gateway });
        }
        let mut burst_at = self.burst_every / 2;
        while self.burst > 0 && burst_at < self.duration {
            for number in 0..self.burst {
                let at = burst_at + Duration::from_micros(dice.below(20_000));
                shots.push(Shot { at, gateway: number as usize % gateways });
            }
            burst_at += self.burst_every;
        }
        shots.sort_by_key(|shot| shot.at);
        shots
    }
}

/// Sends each request at its moment from `start` on.
pub async fn fire(client: &reqwest::Client, urls: &[String], key: &str, shots: Vec<Shot>, start: Instant) -> Log {
    let mut flights = JoinSet::new();
    for shot in shots {
        tokio::time::sleep_until(start + shot.at).await;
        let request = client.get(&urls[shot.gateway]).bearer_auth(key).build().unwrap();
        let client = client.clone();
        flights.spawn(async move {
            let sent = start.elapsed();
            let answer = client.execute(request).await;
            (shot, sent, start.elapsed(), answer.map(|answer| answer.status().as_u16()).ok())
        });
    }
    let mut log = Log::default();
    while let Some(flight) = flights.join_next().await {
        let (shot, sent, answered, status) = flight.unwrap();
        match status {
            Some(200) => {
                log.admitted.push(Admission { sent, answered });
                log.gateways.push(shot.gateway);
            }
            Some(429) => log.refused += 1,
            other => {
                *log.failed.entry(other.unwrap_or(0)).or_default() += 1;
                continue;
            }
        }
        log.offered.push(sent);
        log.took.push(answered.saturating_sub(shot.at));
    }
    log
}

impl Log {
    /// Whether clients and gateways ran when they wanted to. Where they did not, how much they got through says nothing about the
    /// limiter; its bound holds all the same.
    pub fn keeps_pace(&self) -> bool {
        let mut took = self.took.clone();
        took.sort_unstable();
        took.get(took.len() * 9 / 10).is_none_or(|slowest_tenth| *slowest_tenth <= KEEPS_PACE)
    }

    pub fn admitted_by(&self, gateway: usize, from: Duration, until: Duration) -> usize {
        let by_gateway = self.admitted.iter().zip(&self.gateways);
        by_gateway.filter(|(one, by)| **by == gateway && one.sent >= from && one.answered <= until).count()
    }
}

/// Splitmix64: the same traffic in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}
