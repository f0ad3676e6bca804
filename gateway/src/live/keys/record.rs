//! A key in fifty bytes, without alignment or pointers: what a request needs of it, in the very form that goes to disk. Holds
//! no full digest: sixteen bytes of it are enough.

use snapshot::key::{Environment, KeyDigest};
use snapshot::record::METER_ID_MAX;
use uuid::Uuid;

use super::super::shards::SHARD_BITS;

/// The first 16 bytes of a key's SHA-256. To be taken for one of N keys, a guess has to meet N of 2¹²⁸ values: with ten million
/// keys 2¹⁰⁴ guesses, each of them a request. Two honest keys coincide with a chance of 10⁻²⁵, and then neither is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyTag(pub(crate) [u8; 16]);

/// Ids, references and times as little-endian numbers of as many bytes as they need.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyRecord {
    pub(crate) tag: KeyTag,
    id: [u8; 16],
    subscription: [u8; 4],
    scopes: [u8; 3],
    meter_id: [u8; 5],
    expiry: [u8; 6],
}

/// A key's fields before they are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyFields {
    pub(crate) tag: KeyTag,
    pub(crate) id: Uuid,
    pub(crate) subscription: u32,
    /// 0: every endpoint. Else one more than the number of the set.
    pub(crate) scopes: u32,
    pub(crate) meter_id: u64,
    pub(crate) environment: Environment,
    pub(crate) expires_at_ms: Option<i64>,
}

/// Of a record, in memory and on disk.
pub(crate) const KEY_RECORD_BYTES: usize = 50;
/// Numbers of scope sets that a record can hold.
pub(crate) const SCOPE_SETS_MAX: u32 = (1 << 24) - 1;
/// The bit of `expiry` that says which environment.
const TEST_BIT: u64 = 1 << 47;
/// A later end counts as this one, in the year 6429; an end before 1970 as its first moment.
const EXPIRY_MAX_MS: i64 = (1 << 47) - 2;

const _: () = assert!(size_of::<KeyRecord>() == KEY_RECORD_BYTES);

impl KeyTag {
    pub(crate) fn of(digest: &KeyDigest) -> KeyTag {
        let (tag, _rest) = digest.0.split_at(16);
        KeyTag(tag.try_into().unwrap_or([0; 16]))
    }

    /// Its leading bits: a digest is random in all of them.
    pub(crate) fn shard(&self) -> usize {
        usize::try_from(self.word() >> (u64::BITS - SHARD_BITS)).unwrap_or(0)
    }

    /// The 64 bits after those that tell the shard, or as many as there are: where in its shard it stands.
    pub(crate) fn rank(&self) -> u64 {
        self.word() << SHARD_BITS
    }

    pub(crate) fn prefix(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }

    fn word(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl KeyRecord {
    /// None: a number is beyond what a record holds.
    pub(crate) fn pack(fields: &KeyFields) -> Option<KeyRecord> {
        if fields.scopes > SCOPE_SETS_MAX || fields.meter_id > METER_ID_MAX {
            return None;
        }
        let ends = fields.expires_at_ms.map_or(0, |at| at.clamp(0, EXPIRY_MAX_MS).unsigned_abs() + 1);
        let test = if fields.environment == Environment::Test { TEST_BIT } else { 0 };
        Some(KeyRecord {
            tag: fields.tag,
            id: fields.id.into_bytes(),
            subscription: fields.subscription.to_le_bytes(),
            scopes: low(u64::from(fields.scopes)),
            meter_id: low(fields.meter_id),
            expiry: low(ends | test),
        })
    }

    pub(crate) fn fields(&self) -> KeyFields {
        let expiry = wide(&self.expiry);
        let ends = expiry & !TEST_BIT;
        KeyFields {
            tag: self.tag,
            id: self.id(),
            subscription: self.subscription(),
            scopes: u32::try_from(wide(&self.scopes)).unwrap_or(SCOPE_SETS_MAX),
            meter_id: wide(&self.meter_id),
            environment: if expiry & TEST_BIT == 0 { Environment::Live } else { Environment::Test },
            expires_at_ms: ends.checked_sub(1).and_then(|at| i64::try_from(at).ok()),
        }
    }

    pub(crate) fn id(&self) -> Uuid {
        Uuid::from_bytes(self.id)
    }

    pub(crate) fn subscription(&self) -> u32 {
        u32::from_le_bytes(self.subscription)
    }

    /// As in [`KeyFields`].
    pub(crate) fn scopes(&self) -> u32 {
        u32::try_from(wide(&self.scopes)).unwrap_or(SCOPE_SETS_MAX)
    }

    pub(crate) fn write_to(&self, bytes: &mut Vec<u8>) {
        for field in [&self.tag.0[..], &self.id, &self.subscription, &self.scopes, &self.meter_id, &self.expiry] {
            bytes.extend_from_slice(field);
        }
    }

    /// Any fifty bytes are a record.
    pub(crate) fn read(bytes: &[u8; KEY_RECORD_BYTES]) -> KeyRecord {
        let mut rest = bytes.as_slice();
        KeyRecord {
            tag: KeyTag(piece(&mut rest)),
            id: piece(&mut rest),
            subscription: piece(&mut rest),
            scopes: piece(&mut rest),
            meter_id: piece(&mut rest),
            expiry: piece(&mut rest),
        }
    }
}

/// The caller has as many bytes as all pieces together.
fn piece<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((piece, after)) = rest.split_first_chunk::<N>() else { return [0; N] };
    *rest = after;
    *piece
}

/// The low bytes of a number that has no others.
fn low<const N: usize>(number: u64) -> [u8; N] {
    let bytes = number.to_le_bytes();
    bytes.first_chunk::<N>().copied().unwrap_or([0; N])
}

fn wide(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
