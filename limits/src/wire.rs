//! One batched operation between a node and Redis, for the keys of one hash-tag group: what is asked and what is answered.
//! Every number is an integer below 2⁵³, exact as a Lua double. Refuses to decide anything.
//!
//! Delivery: a link has one request under way. It resends an unanswered one with the same `debts` number and the same debts,
//! a new `send` number, no refunds, and a fresh `want`. Redis carries out a `send` only if it is above the last one that it
//! saw of this node and epoch, and the debts in it only if `debts` is; so an operation may be lost, doubled or reordered.

use crate::policy::Algorithm;

/// Keys of one call, at most: 128 keep Redis busy for half a millisecond.
pub const ASKS_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub node: u64,
    /// The start of the process, as Redis counted it; 0 asks for it, and then there are no asks.
    pub epoch: u64,
    /// What tells this process from an earlier one of the same name, so that a doubled greeting is not taken for a restart.
    pub birth: u64,
    /// Grows with every message of the process.
    pub send: u64,
    /// Grows with every set of debts that was acknowledged.
    pub debts: u64,
    pub asks: Vec<Ask>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub key: u64,
    /// Redis follows the highest revision that it has seen; older ones get their grants under the newer terms.
    pub revision: u64,
    pub algorithm: Algorithm,
    pub per_minute: u32,
    pub burst: u32,
    /// Tokens spent on overdraft, or on the share of an outage.
    pub debt: u32,
    pub want: u32,
    pub refund: Option<Refund>,
    pub quota: Option<QuotaAsk>,
}

/// Unspent tokens that go back, at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refund {
    pub tokens: u32,
    pub receipt: Receipt,
}

/// How the bucket stood when tokens were granted, as Redis told. With it Redis knows how much of a refund the bucket has
/// already gained back by overflowing less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Redis' time of the grant.
    pub granted_us: u64,
    /// Units left after the grant.
    pub level: i64,
    /// Tokens ever refunded to this bucket until then.
    pub credited: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaAsk {
    /// Periods only go forward.
    pub period: u32,
    pub included: u64,
    /// A soft quota is counted and never refuses.
    pub hard: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub node: u64,
    /// Of the request.
    pub send: u64,
    pub verdict: Verdict,
    /// Redis' clock. Nobody computes with it but for `granted_us`.
    pub now_us: u64,
    /// In the order of the asks.
    pub grants: Vec<Grant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Carried out.
    Done,
    /// The process's epoch from now on: it asked for one.
    Admitted { epoch: u64 },
    /// A later process, or a later answer to this one, holds the node's name: ask for an epoch.
    Superseded,
    /// Seen before: nothing was done.
    Stale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub key: u64,
    pub tokens: u32,
    /// Units left after this operation; negative while debts are repaid.
    pub level: i64,
    pub credited: u64,
    /// The tokens are void after this time, however long a lease may live.
    pub valid_us: u64,
    /// When there will be a token if nobody takes one meanwhile; 0: now.
    pub wait_us: u64,
    /// When the level of a window grows next if nobody gives anything back; 0 for an empty window, and for a bucket, which
    /// gains all the time.
    pub grows_us: u64,
    pub quota: Option<QuotaLeft>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaLeft {
    /// Redis has lost the count; the control plane has to put it back.
    Unseeded,
    /// Tokens left in the period; negative when overdrawn.
    Left(i64),
}
