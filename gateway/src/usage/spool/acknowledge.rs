//! What became of the batches that were offered: which are overdue, which the database has, and what to think when nobody says
//! anything. Sends nothing itself.

use std::io;
use std::time::{Duration, Instant};

use super::{ACKNOWLEDGED, Offered, Outgoing, Overdue, RESEND_AFTER, RESEND_AFTER_MAX, Spool, find};

/// How long Redis may hold no acknowledgement that it held before, until it is asked for.
const PROBE_AFTER: Duration = Duration::from_secs(10);
/// How often the batch that asks for it may disappear without an answer, beside its first time.
const PROBE_MISSES_MAX: u32 = 3;

/// Looks for a lost acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    since: Instant,
    /// The batch that was sent once more.
    sent: Option<u64>,
    misses: u32,
}

impl Spool {
    /// Redis took it.
    pub(in crate::usage) fn sent(&mut self, sequence: u64, id: &str) {
        let index = self.index(sequence);
        let entry = self.entries.get_mut(index).filter(|entry| entry.sequence == sequence);
        if let Some(offered) = entry.and_then(|entry| entry.offered.as_mut()) {
            offered.id = Some(id.into());
        }
    }

    /// Batches from `first` on that were offered long enough ago and are not acknowledged.
    pub(in crate::usage) fn overdue(&self, first: u64, count_max: usize, now: Instant) -> Vec<Overdue> {
        let behind = self.entries.iter().skip(self.index(first.max(self.first_unacknowledged())));
        let offered = behind.take_while(|entry| entry.sequence < self.next_offer);
        let overdue = offered.filter_map(|entry| {
            let offered = entry.offered.as_ref()?;
            (now.saturating_duration_since(offered.at) >= offered.wait).then(|| (entry.sequence, offered.id.clone()))
        });
        overdue.take(count_max).collect()
    }

    /// Looks after this batch again later. `is_gone`: it is offered again now, and given back to be sent.
    pub(in crate::usage) fn look_again(&mut self, sequence: u64, is_gone: bool, now: Instant) -> Option<Outgoing> {
        let index = self.index(sequence);
        let entry = self.entries.get_mut(index).filter(|entry| entry.sequence == sequence)?;
        let offered = entry.offered.as_mut()?;
        offered.at = now;
        offered.wait = offered.wait.saturating_mul(2).clamp(RESEND_AFTER, RESEND_AFTER_MAX);
        if !is_gone {
            return None;
        }
        offered.id = None;
        let outgoing = entry.clone();
        self.note_miss(sequence, now);
        let segment = find(&self.segments, outgoing.segment)?;
        Some(outgoing.outgoing(segment.file.clone()))
    }

    /// The database has every batch up to this one. Less than before: it lost some, and they are offered again. Answers how
    /// many batches are newly acknowledged.
    pub(in crate::usage) fn acknowledge(&mut self, sequence: u64, now: Instant) -> u64 {
        if self.next_sequence == 0 {
            return 0;
        }
        self.probe = None;
        let before = self.acknowledged.replace(sequence.min(self.next_sequence.saturating_sub(1)));
        let Some(before) = before.filter(|before| *before > sequence) else {
            let first = before.map_or(0, |before| before.saturating_add(1));
            return self.first_unacknowledged().saturating_sub(first);
        };
        self.offer_again(sequence.saturating_add(1)..=before, now);
        0
    }

    /// From now on these are overdue.
    fn offer_again(&mut self, sequences: std::ops::RangeInclusive<u64>, now: Instant) {
        let first = self.index(*sequences.start());
        for entry in self.entries.iter_mut().skip(first).take_while(|entry| entry.sequence <= *sequences.end()) {
            entry.offered = Some(Offered { at: now, wait: Duration::ZERO, id: None });
        }
    }

    /// Redis says nothing of this epoch. It may have been emptied: then the last batch that was acknowledged, sent once more,
    /// brings the acknowledgement back. Or the database has lost all of the epoch: then it does not.
    pub(in crate::usage) fn note_silence(&mut self, now: Instant) {
        let Some(last) = self.acknowledged else { return };
        match self.probe {
            None => self.probe = Some(Probe { since: now, sent: None, misses: 0 }),
            Some(Probe { since, sent: None, .. }) if now.saturating_duration_since(since) >= PROBE_AFTER => {
                self.acknowledged = last.checked_sub(1);
                self.offer_again(last..=last, now);
                self.probe = Some(Probe { since, sent: Some(last), misses: 0 });
            }
            Some(_) => {}
        }
    }

    /// The probe was taken out of the stream, and still there is no acknowledgement.
    fn note_miss(&mut self, sequence: u64, now: Instant) {
        let Some(probe) = self.probe.as_mut().filter(|probe| probe.sent == Some(sequence)) else { return };
        probe.misses += 1;
        if probe.misses > PROBE_MISSES_MAX {
            (self.probe, self.acknowledged) = (None, None);
            self.offer_again(0..=sequence, now);
        }
    }

    /// Writes down how far the database is, so that a successor does not send a whole day again. A lost write costs no more
    /// than that.
    pub(in crate::usage) fn save_acknowledged(&self) -> io::Result<()> {
        let text = self.acknowledged.map(|sequence| sequence.to_string()).unwrap_or_default();
        std::fs::write(self.dir.join(ACKNOWLEDGED), text)
    }

    /// Batches that are not acknowledged, and when the oldest of them was sealed.
    pub(in crate::usage) fn unacknowledged(&self) -> (usize, Option<i64>) {
        let first = self.index(self.first_unacknowledged());
        (self.entries.len() - first, self.entries.get(first).map(|entry| entry.at_ms))
    }
}
