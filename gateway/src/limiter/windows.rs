//! Counting windows: a ring of sub-windows, each counted in full until it can no longer overlap the last minute. One slot of
//! a minute is the fixed window (≤ 2L in any true minute), thirteen of five seconds the sliding one (≤ L: twelve whole ones and
//! the oldest partial one). Pure: no clock, no storage. Refuses to weight the oldest slot, which would admit up to 2L.

use snapshot::record::Algorithm;

/// Slots of the ring: the twelve sub-windows of a minute and the one that is leaving.
const SLOTS: usize = 13;
/// A head that is further ahead than this many sub-windows says that the clock was set back.
const SET_BACK_SLOTS: u64 = 1;

/// How the minute is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    slot_us: u64,
    slots: usize,
}

impl Shape {
    pub(super) const FIXED: Shape = Shape { slot_us: 60_000_000, slots: 1 };
    pub(super) const SLIDING: Shape = Shape { slot_us: 5_000_000, slots: SLOTS };

    pub(super) fn of(algorithm: Algorithm) -> Shape {
        match algorithm {
            Algorithm::SlidingWindow => Shape::SLIDING,
            Algorithm::FixedWindow | Algorithm::TokenBucket => Shape::FIXED,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Windows {
    /// Number of the newest sub-window since the clock began.
    head: u64,
    /// Requests by age: the head first.
    counts: [u32; SLOTS],
}

impl Windows {
    /// Takes one of `limit`. Ok: the sub-window it was counted in. Err: microseconds until one is free.
    pub(super) fn take(&mut self, shape: Shape, limit: u32, now_us: u64) -> Result<u64, u64> {
        self.advance(shape, now_us);
        if self.used() >= u64::from(limit) {
            return Err(self.until_below_us(shape, u64::from(limit), now_us));
        }
        if let Some(count) = self.counts.first_mut() {
            *count = count.saturating_add(1);
        }
        Ok(self.head)
    }

    /// Gives one back to the sub-window that it was counted in, if that still counts.
    pub(super) fn give_back(&mut self, slot: u64) {
        let age = self.head.checked_sub(slot).and_then(|age| usize::try_from(age).ok());
        if let Some(count) = age.and_then(|age| self.counts.get_mut(age)) {
            *count = count.saturating_sub(1);
        }
    }

    pub(super) fn remaining(&self, limit: u32) -> u64 {
        u64::from(limit).saturating_sub(self.used())
    }

    /// Microseconds until fewer are counted than now; 0 when nothing is.
    pub(super) fn until_more_us(&self, shape: Shape, now_us: u64) -> u64 {
        match self.used() {
            0 => 0,
            used => self.until_below_us(shape, used, now_us),
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// Begins anew with `used` requests, all counted as made now.
    pub(super) fn restart(&mut self, shape: Shape, used: u64, now_us: u64) {
        self.head = now_us / shape.slot_us;
        self.counts = [0; SLOTS];
        if let Some(count) = self.counts.first_mut() {
            *count = u32::try_from(used).unwrap_or(u32::MAX);
        }
    }

    /// Moves the head to now; what has left the minute is forgotten. A clock that was set back keeps every count, so that it
    /// gives nothing away and locks nobody out for longer than one window.
    pub(super) fn advance(&mut self, shape: Shape, now_us: u64) {
        let slot = now_us / shape.slot_us;
        if let Some(steps) = slot.checked_sub(self.head) {
            let steps = usize::try_from(steps).unwrap_or(SLOTS).min(SLOTS);
            self.counts.rotate_right(steps);
            self.counts.iter_mut().take(steps).for_each(|count| *count = 0);
            self.counts.iter_mut().skip(shape.slots).for_each(|count| *count = 0);
            self.head = slot;
        } else if self.head - slot > SET_BACK_SLOTS {
            self.head = slot;
        }
    }

    /// Microseconds until fewer than `limit` are counted, if nothing more comes. Walks from the oldest sub-window.
    fn until_below_us(&self, shape: Shape, limit: u64, now_us: u64) -> u64 {
        let mut left = self.used();
        for (age, count) in self.counts.iter().enumerate().take(shape.slots).rev() {
            left -= u64::from(*count);
            if left < limit {
                let stays = u64::try_from(shape.slots - age).unwrap_or(u64::MAX);
                let leaves_us = self.head.saturating_add(stays).saturating_mul(shape.slot_us);
                return leaves_us.saturating_sub(now_us);
            }
        }
        0
    }
}
