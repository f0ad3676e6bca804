//! An API key's rules: how many, how long an old one outlives its rotation. The key's form is the snapshot's; its secret
//! is never here.

use jiff::{SignedDuration, Timestamp};

use super::fault::Flaw;

/// Active keys of one subscription: bounds what one consumer costs in every snapshot.
pub const ACTIVE_KEYS_MAX: i64 = 50;
/// How long a rotated key still works, in seconds: a day unless said, a week at most.
pub const OVERLAP_S_DEFAULT: u32 = 24 * 60 * 60;
pub const OVERLAP_S_MAX: u32 = 7 * 24 * 60 * 60;

text_enum! {
    /// What a key is for. Test keys have small limits and are never billed.
    Environment { Live = "live", Test = "test" }
}

text_enum! {
    /// Whether a key still works, expiry aside.
    KeyStatus { Active = "active", Revoked = "revoked" }
}

/// How long the old key works beside the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap(SignedDuration);

impl From<Environment> for snapshot::key::Environment {
    fn from(environment: Environment) -> Self {
        match environment {
            Environment::Live => snapshot::key::Environment::Live,
            Environment::Test => snapshot::key::Environment::Test,
        }
    }
}

impl Overlap {
    pub fn parse(seconds: Option<u32>) -> Result<Overlap, Flaw> {
        let seconds = seconds.unwrap_or(OVERLAP_S_DEFAULT);
        if seconds > OVERLAP_S_MAX {
            return Err(Flaw::new(format!("an overlap is 0 to {OVERLAP_S_MAX} seconds")).mend("a week is the most"));
        }
        Ok(Overlap(SignedDuration::from_secs(i64::from(seconds))))
    }

    /// When the old key ends: never later than it would have anyway.
    pub fn end_of_old(self, old_expiry: Option<Timestamp>, now: Timestamp) -> Timestamp {
        let end = now.saturating_add(self.0).unwrap_or(now);
        old_expiry.map_or(end, |expiry| expiry.min(end))
    }
}

/// An expiry in the past would make a key that never worked.
pub fn parse_expiry(expires_at: Option<Timestamp>, now: Timestamp) -> Result<Option<Timestamp>, Flaw> {
    match expires_at {
        Some(at) if at <= now => Err(Flaw::new("this time has passed").mend("give a time to come, or revoke the key")),
        other => Ok(other),
    }
}
