//! One node's conversation with one hash-tag group: numbers its messages, keeps one under way, notices that Redis is gone or
//! back. Refuses to know keys or tokens.

use crate::ledger::Reach;
use crate::terms::{BATCH_GAP_NS, MS_NS};
use crate::wire::{Ask, Reply, Request, Verdict};

/// An answer that takes longer counts as none.
pub const TIMEOUT_NS: u64 = 50 * MS_NS;
/// After so many in a row Redis counts as down.
const TIMEOUTS_MAX: u32 = 3;
/// How often a node looks whether Redis is back.
const PROBE_NS: u64 = 200 * MS_NS;
/// How long after its return a node goes on alone, so that every node has looked and reported: a probe, three answers that
/// time out, and another probe.
const SETTLE_NS: u64 = 2 * PROBE_NS + 3 * TIMEOUT_NS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Up,
    Down { since_ns: u64, probe_at_ns: u64 },
    Settling { since_ns: u64, until_ns: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    send: u64,
    sent_ns: u64,
    /// It carries debts that are not acknowledged.
    owing: bool,
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// To an earlier question, or doubled: nothing.
    Nothing,
    /// The question under way was carried out. It was sent then.
    Done { sent_ns: u64 },
    /// The process may begin.
    Admitted,
    /// The question under way was not carried out.
    Rejected,
}

#[derive(Debug)]
pub(crate) struct Link {
    node: u64,
    birth: u64,
    /// 0: Redis has not admitted this process.
    epoch: u64,
    send: u64,
    /// Sets of debts that were acknowledged.
    debts: u64,
    flight: Option<Flight>,
    sent_at_ns: Option<u64>,
    timeouts: u32,
    mode: Mode,
}

impl Link {
    pub(crate) fn new(node: u64, birth: u64) -> Link {
        Link { node, birth, epoch: 0, send: 0, debts: 0, flight: None, sent_at_ns: None, timeouts: 0, mode: Mode::Up }
    }

    pub(crate) fn is_admitted(&self) -> bool {
        self.epoch > 0
    }

    pub(crate) fn reach(&self) -> Reach {
        match self.mode {
            Mode::Up => Reach::Up,
            Mode::Down { since_ns, .. } => Reach::Down { since_ns },
            Mode::Settling { since_ns, .. } => Reach::Settling { since_ns },
        }
    }

    /// Lets time pass; whether the question under way is to be given up.
    pub(crate) fn tick(&mut self, now_ns: u64) -> bool {
        if let Mode::Settling { until_ns, .. } = self.mode
            && now_ns >= until_ns
        {
            self.mode = Mode::Up;
        }
        let Some(flight) = self.flight else { return false };
        if now_ns < flight.sent_ns.saturating_add(TIMEOUT_NS) {
            return false;
        }
        self.flight = None;
        self.timeouts = self.timeouts.saturating_add(1);
        if self.timeouts >= TIMEOUTS_MAX {
            let since_ns = match self.mode {
                Mode::Up => now_ns,
                Mode::Down { since_ns, .. } | Mode::Settling { since_ns, .. } => since_ns,
            };
            self.mode = Mode::Down { since_ns, probe_at_ns: now_ns.saturating_add(PROBE_NS) };
        }
        true
    }

    /// When a message may go out; None while one is under way.
    pub(crate) fn free_at_ns(&self) -> Option<u64> {
        if self.flight.is_some() {
            return None;
        }
        let gap_ns = self.sent_at_ns.map_or(0, |at| at.saturating_add(BATCH_GAP_NS));
        Some(match self.mode {
            Mode::Down { probe_at_ns, .. } => gap_ns.max(probe_at_ns),
            Mode::Up | Mode::Settling { .. } => gap_ns,
        })
    }

    /// When time alone changes something.
    pub(crate) fn timer_ns(&self) -> Option<u64> {
        let timeout = self.flight.map(|flight| flight.sent_ns.saturating_add(TIMEOUT_NS));
        let turn = match self.mode {
            Mode::Up => None,
            Mode::Down { probe_at_ns, .. } => timeout.is_none().then_some(probe_at_ns),
            Mode::Settling { until_ns, .. } => Some(until_ns),
        };
        [timeout, turn].into_iter().flatten().min()
    }

    /// Numbers a message; it counts as sent. Without asks it greets, or looks whether Redis is back. `owing`: it carries
    /// the set of debts that is not acknowledged.
    pub(crate) fn begin(&mut self, asks: Vec<Ask>, owing: bool, now_ns: u64) -> Request {
        self.send += 1;
        self.sent_at_ns = Some(now_ns);
        self.flight = Some(Flight { send: self.send, sent_ns: now_ns, owing });
        let debts = self.debts + u64::from(owing);
        Request { node: self.node, epoch: self.epoch, birth: self.birth, send: self.send, debts, asks }
    }

    pub(crate) fn hear(&mut self, reply: &Reply, now_ns: u64) -> Heard {
        let Some(flight) = self.flight.filter(|flight| flight.send == reply.send && reply.node == self.node) else {
            return Heard::Nothing;
        };
        self.flight = None;
        self.timeouts = 0;
        if let Mode::Down { since_ns, .. } = self.mode {
            self.mode = Mode::Settling { since_ns, until_ns: now_ns.saturating_add(SETTLE_NS) };
        }
        match reply.verdict {
            Verdict::Done => {
                self.debts += u64::from(flight.owing);
                Heard::Done { sent_ns: flight.sent_ns }
            }
            Verdict::Admitted { epoch } => {
                self.epoch = epoch;
                Heard::Admitted
            }
            Verdict::Superseded => {
                self.epoch = 0;
                Heard::Rejected
            }
            Verdict::Stale => Heard::Rejected,
        }
    }

    /// The set of debts was dropped; the next one needs a number of its own. Only mutants drop debts.
    pub(crate) fn skip_debts(&mut self) {
        self.debts += 1;
    }

    /// A number that differs from node to node and from message to message, to spread what would coincide.
    pub(crate) fn jitter(&self) -> u64 {
        let mixed = (self.node ^ self.send.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed ^ (mixed >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 16
    }
}
