//! The bytes of a message: little-endian numbers at fixed places, so that the script reads an ask by one call. Refuses an answer
//! that it cannot read whole. `redis/limits.lua` has the same layouts, as `struct` formats.

use thiserror::Error;

use super::{Mend, Mended};
use crate::policy::Algorithm;
use crate::wire::{ASKS_MAX, Ask, Grant, QuotaLeft, Refund, Reply, Request, Verdict};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 41;
const ASK_BYTES: usize = 74;
/// The largest integer that a double holds exactly, with all below it.
const EXACT_MAX: u64 = (1 << 53) - 1;

const WITH_REFUND: u8 = 1;
const WITH_QUOTA: u8 = 2;
const HARD: u8 = 4;
const REPEATED: u8 = 8;

/// An answer that is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadReply {
    #[error("the answer of the limits' function ends too early")]
    Short,
    #[error("the answer of the limits' function is {0} bytes too long")]
    Long(usize),
    #[error("the answer of the limits' function has layout {0}, not {VERSION}")]
    Version(u8),
    #[error("the answer of the limits' function has the unknown word {0}")]
    Word(u8),
}

pub(super) fn request(request: &Request) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + ASK_BYTES * request.asks.len());
    bytes.push(VERSION);
    for number in [request.node, request.epoch, request.birth, request.send, request.debts] {
        bytes.extend(number.to_le_bytes());
    }
    let has_repeated = has_repeated(&request.asks);
    for (index, one) in request.asks.iter().enumerate() {
        let repeated = has_repeated && request.asks.iter().take(index).any(|before| before.key == one.key);
        ask(&mut bytes, one, if repeated { REPEATED } else { 0 });
    }
    bytes
}

fn has_repeated(asks: &[Ask]) -> bool {
    let mut keys: Vec<u64> = asks.iter().map(|ask| ask.key).collect();
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair.first() == pair.last())
}

fn ask(bytes: &mut Vec<u8>, ask: &Ask, flags: u8) {
    let quota = ask.quota.map_or((0, 0, 0), |quota| {
        let flags = if quota.hard { WITH_QUOTA | HARD } else { WITH_QUOTA };
        // Nobody uses up more than a double can count.
        (flags, quota.period, quota.included.min(EXACT_MAX))
    });
    let refund_flag = if ask.refund.is_some() { WITH_REFUND } else { 0 };
    bytes.extend(ask.key.to_le_bytes());
    bytes.extend(ask.revision.to_le_bytes());
    bytes.extend([algorithm(ask.algorithm), flags | quota.0 | refund_flag]);
    for number in [ask.per_minute, ask.burst, ask.debt, ask.want, quota.1] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(quota.2.to_le_bytes());
    refund(bytes, ask.refund);
}

/// Zeros where there is none.
fn refund(bytes: &mut Vec<u8>, refund: Option<Refund>) {
    bytes.extend(refund.map_or(0, |refund| refund.tokens).to_le_bytes());
    bytes.extend(refund.map_or(0, |refund| refund.receipt.granted_us).to_le_bytes());
    bytes.extend(refund.map_or(0, |refund| refund.receipt.level).to_le_bytes());
    bytes.extend(refund.map_or(0, |refund| refund.receipt.credited).to_le_bytes());
}

pub(super) fn algorithm(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::TokenBucket => 0,
        Algorithm::SlidingWindow => 1,
        Algorithm::FixedWindow => 2,
    }
}

pub(super) fn seed(period: u32, used: u64) -> Vec<u8> {
    [&period.to_le_bytes()[..], &used.min(EXACT_MAX).to_le_bytes()].concat()
}

pub(super) fn mend(mend: Mend) -> Vec<u8> {
    let mut bytes = mend.period.to_le_bytes().to_vec();
    for number in [mend.least, mend.excess, mend.since_us] {
        bytes.extend(number.min(EXACT_MAX).to_le_bytes());
    }
    bytes
}

pub(super) fn mended(bytes: &[u8]) -> Result<Mended, BadReply> {
    let mut reader = Reader(bytes);
    let (before, after) = (reader.u64()?, reader.u64()?);
    let (credited, born_us, since_us) = (reader.u64()?, reader.u64()?, reader.u64()?);
    match reader.0.len() {
        0 => Ok(Mended { before, after, credited, born_us, since_us }),
        more => Err(BadReply::Long(more)),
    }
}

pub(super) fn reply(bytes: &[u8]) -> Result<Reply, BadReply> {
    let mut reader = Reader(bytes);
    let version = reader.byte()?;
    if version != VERSION {
        return Err(BadReply::Version(version));
    }
    let verdict = reader.byte()?;
    let (node, send, epoch, now_us) = (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
    let verdict = match verdict {
        0 => Verdict::Done,
        1 => Verdict::Admitted { epoch },
        2 => Verdict::Superseded,
        3 => Verdict::Stale,
        other => return Err(BadReply::Word(other)),
    };
    let mut grants = Vec::new();
    while !reader.0.is_empty() && grants.len() < ASKS_MAX {
        grants.push(grant(&mut reader)?);
    }
    match reader.0.len() {
        0 => Ok(Reply { node, send, verdict, now_us, grants }),
        more => Err(BadReply::Long(more)),
    }
}

fn grant(reader: &mut Reader<'_>) -> Result<Grant, BadReply> {
    Ok(Grant {
        key: reader.u64()?,
        tokens: reader.u32()?,
        level: reader.i64()?,
        credited: reader.u64()?,
        valid_us: u64::from(reader.u32()?),
        wait_us: reader.u64()?,
        grows_us: u64::from(reader.u32()?),
        quota: match (reader.byte()?, reader.i64()?) {
            (0, _) => None,
            (1, _) => Some(QuotaLeft::Unseeded),
            (2, left) => Some(QuotaLeft::Left(left)),
            (other, _) => return Err(BadReply::Word(other)),
        },
    })
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadReply> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(BadReply::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, BadReply> {
        self.take().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, BadReply> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadReply> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, BadReply> {
        self.take().map(i64::from_le_bytes)
    }
}
