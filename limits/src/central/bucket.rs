//! The token bucket: GCRA whose theoretical arrival time is kept as (moment, units used) instead of one rounded number, so that
//! any rate is exact and a clock that is set back changes nothing. Refuses to know who asks.
//!
//! Source: ATM Forum, Generic Cell Rate Algorithm. TAT = `stamp_us` + `used` / `per_minute`.

use crate::mutant::{self, Mutant};
use crate::terms::UNITS;
use crate::wire::Refund;

/// A key may be this many times its size below full: itself, and its size again in debts, twice.
pub(super) const USED_BURSTS_MAX: i64 = 3;
/// What a key outlives its refill by.
const KEEP_US: u64 = 60_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) per_minute: i64,
    pub(super) burst: i64,
    /// Units missing at `stamp_us`.
    pub(super) used: i64,
    pub(super) stamp_us: u64,
}

impl Bucket {
    /// With the fraction `used` / `of` missing, rounded up.
    pub(super) fn new(per_minute: u32, burst: u32, used: u64, of: u64, now_us: u64) -> Bucket {
        let (per_minute, burst) = (i64::from(per_minute), i64::from(burst));
        Bucket { per_minute, burst, used: rebase(used, of, burst * UNITS), stamp_us: now_us }
    }

    /// Lets time pass; whether the clock was set back.
    pub(super) fn settle(&mut self, now_us: u64) -> bool {
        let elapsed = now_us.saturating_sub(self.stamp_us);
        let back = now_us < self.stamp_us;
        self.stamp_us = now_us;
        let refill_us = self.used.unsigned_abs().div_ceil(self.per_minute.unsigned_abs());
        match i64::try_from(elapsed) {
            // The product stays below `used`, hence below 2⁵³.
            Ok(dt) if elapsed < refill_us => self.used -= dt * self.per_minute,
            _ => self.used = 0,
        }
        back
    }

    pub(super) fn debit(&mut self, tokens: u32) {
        self.used += i64::from(tokens) * UNITS;
    }

    pub(super) fn debit_debt(&mut self, tokens: u32) {
        if mutant::is(Mutant::MaxMerge) {
            self.used = self.used.max(i64::from(tokens) * UNITS);
            return;
        }
        let most = if mutant::is(Mutant::NegativeForgotten) { self.burst } else { USED_BURSTS_MAX * self.burst };
        self.used = self.used.saturating_add(i64::from(tokens) * UNITS).min(most * UNITS);
    }

    /// Credits what the bucket would hold more had those tokens never been granted: if it was close to full since, part of it
    /// has flowed in already and overflowed less. The peak since the grant is bounded from what Redis told then: that level,
    /// and everything that has flowed in or come back. So a chain of refunds cannot make tokens out of time.
    pub(super) fn refund(&mut self, refund: &Refund, credited: u64, now_us: u64) -> u32 {
        let receipt = refund.receipt;
        let full = self.burst * UNITS;
        let age = i64::try_from(now_us.saturating_sub(receipt.granted_us)).unwrap_or(i64::MAX);
        let returned = i64::try_from(credited.saturating_sub(receipt.credited)).unwrap_or(i64::MAX);
        let peak = receipt
            .level
            .saturating_add(age.saturating_mul(self.per_minute))
            .saturating_add(returned.saturating_mul(UNITS))
            .clamp(self.level().min(full), full);
        let room = if mutant::is(Mutant::RefundLate) { self.used } else { full - peak };
        let tokens = i64::from(refund.tokens).min(room / UNITS).min(self.used / UNITS);
        self.used -= tokens * UNITS;
        u32::try_from(tokens).unwrap_or(0)
    }

    pub(super) fn level(&self) -> i64 {
        self.burst * UNITS - self.used
    }

    pub(super) fn wait_us(&self) -> u64 {
        (UNITS - self.level()).max(0).unsigned_abs().div_ceil(self.per_minute.unsigned_abs())
    }

    pub(super) fn expires_us(&self) -> u64 {
        let refill_us = self.used.unsigned_abs().div_ceil(self.per_minute.unsigned_abs());
        self.stamp_us.saturating_add(refill_us).saturating_add(KEEP_US)
    }

    pub(super) fn used(&self) -> (u64, u64) {
        (self.used.unsigned_abs(), (self.burst * UNITS).unsigned_abs())
    }
}

/// ⌈whole × used / of⌉.
pub(super) fn rebase(used: u64, of: u64, whole: i64) -> i64 {
    let scaled = (u128::from(used) * u128::from(whole.unsigned_abs())).div_ceil(u128::from(of.max(1)));
    i64::try_from(scaled).unwrap_or(i64::MAX)
}
