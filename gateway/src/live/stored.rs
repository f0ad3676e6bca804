//! A snapshot as blocks of bytes for the disk, and back: what a control plane sent as its records, the tables of keys as they
//! lie in memory, so that ten million are read in about a second. Knows no file and no checksum.

use std::sync::Arc;

use ::snapshot::token::Token;
use ::snapshot::wire;
use prost::Message as _;
use uuid::Uuid;

use super::building::Building;
use super::journal::JournalEntry;
use super::keys::{ID_ENTRY_BYTES, Ids, KEY_RECORD_BYTES, KeyRecord, KeyTable, Leaf};
use super::numbered::NumbersFault;
use super::records::scope_record;
use super::shards::SHARDS;
use super::snapshot::Snapshot;

/// A block is closed once it is longer.
const BLOCK_BYTES_WANTED: usize = 1 << 20;

/// What a block holds. The order of the file: who reads needs the numbers before the keys, and refused records last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockKind {
    /// Numbers of subscriptions, and of sets of scopes: the keys refer to them.
    Numbers,
    Scopes,
    Records,
    /// Shards of the keys, and of their ids, in their order.
    Keys,
    Ids,
    /// Records that were received and could not be taken in.
    Refused,
}

#[derive(Debug, thiserror::Error)]
pub enum StoredFault {
    #[error("a block does not hold what its kind says")]
    Block,
    #[error(transparent)]
    Record(#[from] prost::DecodeError),
    #[error("a change does not follow on the one before")]
    Order,
    #[error("the tables do not fit together")]
    Tables,
    #[error(transparent)]
    Numbers(#[from] NumbersFault),
}

impl Snapshot {
    /// Gives all blocks, one by one, to `sink`. Errors: those of `sink`.
    pub fn write_blocks<E>(&self, mut sink: impl FnMut(BlockKind, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let numbers = self.subscriptions.given();
        write(BlockKind::Numbers, &mut sink, numbers, |(number, id), block| {
            block.extend_from_slice(&number.to_le_bytes());
            block.extend_from_slice(id.as_bytes());
        })?;
        write(BlockKind::Scopes, &mut sink, self.scopes.given(), |(number, scopes), block| {
            block.extend_from_slice(&number.to_le_bytes());
            write_record(&scope_record(scopes), block);
        })?;
        write(BlockKind::Records, &mut sink, self.records(), |record, block| write_record(&record, block))?;
        if self.keys.len() > 0 {
            write(BlockKind::Keys, &mut sink, self.keys.leaves(), |leaf, block| {
                write_length(leaf.records().len(), block);
                leaf.records().iter().for_each(|record| record.write_to(block));
            })?;
            write(BlockKind::Ids, &mut sink, self.keys.ids(), |ids, block| {
                write_length(ids.entries().len(), block);
                ids.entries().iter().for_each(|entry| block.extend_from_slice(entry));
            })?;
        }
        let refused = self.refused.values().map(|refused| &refused.record);
        write(BlockKind::Refused, &mut sink, refused, write_record)
    }
}

fn write<T, E>(
    kind: BlockKind,
    sink: &mut impl FnMut(BlockKind, &[u8]) -> Result<(), E>,
    things: impl Iterator<Item = T>,
    write_one: impl Fn(T, &mut Vec<u8>),
) -> Result<(), E> {
    let mut block = Vec::new();
    for thing in things {
        write_one(thing, &mut block);
        if block.len() >= BLOCK_BYTES_WANTED {
            sink(kind, &block)?;
            block.clear();
        }
    }
    if block.is_empty() { Ok(()) } else { sink(kind, &block) }
}

/// Lengths are of records and of leaves: far below 4 GiB.
fn write_length(length: usize, block: &mut Vec<u8>) {
    block.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn write_record(record: &wire::Record, block: &mut Vec<u8>) {
    write_length(record.encoded_len(), block);
    block.extend_from_slice(&record.encode_to_vec());
}

/// One block, decoded; by any thread.
pub enum Decoded {
    Numbers(Vec<(u32, Uuid)>),
    Scopes(Vec<(u32, Arc<[String]>)>),
    Records(Vec<wire::Record>),
    Keys(KeyLeaves),
    Ids(IdLeaves),
}

/// Some shards of the keys.
pub struct KeyLeaves {
    leaves: Vec<Leaf>,
}

/// Some shards of their ids.
pub struct IdLeaves {
    leaves: Vec<Ids>,
}

pub fn decode(kind: BlockKind, block: &[u8]) -> Result<Decoded, StoredFault> {
    let mut rest = block;
    let rest = &mut rest;
    Ok(match kind {
        BlockKind::Numbers => Decoded::Numbers(all(rest, |rest| Ok((take_u32(rest)?, Uuid::from_bytes(take(rest)?))))?),
        BlockKind::Scopes => Decoded::Scopes(all(rest, |rest| Ok((take_u32(rest)?, scopes_of(take_record(rest)?)?)))?),
        BlockKind::Records | BlockKind::Refused => Decoded::Records(all(rest, take_record)?),
        BlockKind::Keys => Decoded::Keys(KeyLeaves { leaves: all(rest, take_leaf)? }),
        BlockKind::Ids => Decoded::Ids(IdLeaves { leaves: all(rest, take_ids)? }),
    })
}

fn all<T>(rest: &mut &[u8], take_one: impl Fn(&mut &[u8]) -> Result<T, StoredFault>) -> Result<Vec<T>, StoredFault> {
    let mut things = Vec::new();
    while !rest.is_empty() {
        things.push(take_one(rest)?);
    }
    Ok(things)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], StoredFault> {
    let (piece, after) = rest.split_first_chunk().ok_or(StoredFault::Block)?;
    *rest = after;
    Ok(*piece)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, StoredFault> {
    take(rest).map(u32::from_le_bytes)
}

fn take_length(rest: &mut &[u8]) -> Result<usize, StoredFault> {
    usize::try_from(take_u32(rest)?).map_err(|_| StoredFault::Block)
}

fn take_bytes<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], StoredFault> {
    let (piece, after) = rest.split_at_checked(length).ok_or(StoredFault::Block)?;
    *rest = after;
    Ok(piece)
}

fn take_record(rest: &mut &[u8]) -> Result<wire::Record, StoredFault> {
    let length = take_length(rest)?;
    Ok(wire::Record::decode(take_bytes(rest, length)?)?)
}

fn scopes_of(record: wire::Record) -> Result<Arc<[String]>, StoredFault> {
    match record.record {
        Some(wire::record::Record::Key(key)) => Ok(key.scopes.into()),
        _ => Err(StoredFault::Block),
    }
}

fn take_leaf(rest: &mut &[u8]) -> Result<Leaf, StoredFault> {
    let length = take_length(rest)?.checked_mul(KEY_RECORD_BYTES).ok_or(StoredFault::Block)?;
    let (records, _) = take_bytes(rest, length)?.as_chunks::<KEY_RECORD_BYTES>();
    Leaf::of_sorted(records.iter().map(KeyRecord::read).collect()).ok_or(StoredFault::Block)
}

fn take_ids(rest: &mut &[u8]) -> Result<Ids, StoredFault> {
    let length = take_length(rest)?.checked_mul(ID_ENTRY_BYTES).ok_or(StoredFault::Block)?;
    let (entries, _) = take_bytes(rest, length)?.as_chunks::<ID_ENTRY_BYTES>();
    Ids::of_sorted(entries.to_vec()).ok_or(StoredFault::Block)
}

/// A snapshot in the making from decoded blocks, which have to be given in the order of the file.
pub struct Restoring {
    building: Building,
    leaves: Vec<Leaf>,
    ids: Vec<Ids>,
    refused: Vec<wire::Record>,
}

impl Default for Restoring {
    fn default() -> Restoring {
        let building = Building::beside(Arc::new(Snapshot::empty()));
        Restoring { building, leaves: Vec::with_capacity(SHARDS), ids: Vec::with_capacity(SHARDS), refused: Vec::new() }
    }
}

impl Restoring {
    pub fn take(&mut self, kind: BlockKind, block: Decoded) -> Result<(), StoredFault> {
        match block {
            Decoded::Numbers(numbers) => {
                for (number, id) in numbers {
                    self.building.snapshot().subscriptions.give_again(number, &id)?;
                }
            }
            Decoded::Scopes(numbers) => {
                for (number, scopes) in numbers {
                    self.building.snapshot().scopes.give_again(number, &scopes)?;
                }
            }
            Decoded::Records(records) if kind == BlockKind::Refused => self.refused.extend(records),
            Decoded::Records(records) => records.iter().for_each(|record| self.building.put(record)),
            Decoded::Keys(keys) => self.leaves.extend(keys.leaves),
            Decoded::Ids(ids) => self.ids.extend(ids.leaves),
        }
        Ok(())
    }

    /// What was written, and then what the journal's entries say. Errors: the tables do not fit together.
    pub fn finish(self, token: Token) -> Result<Snapshot, StoredFault> {
        let Restoring { building, leaves, ids, refused } = self;
        let (mut snapshot, _) = building.finish(token);
        let mut subscriptions = vec![0; snapshot.subscriptions.numbers()];
        let mut scopes = vec![0; snapshot.scopes.numbers()];
        for record in leaves.iter().flat_map(Leaf::records) {
            count(&mut subscriptions, record.subscription())?;
            if let Some(number) = record.scopes().checked_sub(1) {
                count(&mut scopes, number)?;
            }
        }
        if !leaves.is_empty() || !ids.is_empty() {
            snapshot.keys = KeyTable::of_leaves(leaves, ids).ok_or(StoredFault::Tables)?;
        }
        snapshot.subscriptions.count_references(&subscriptions)?;
        snapshot.scopes.count_references(&scopes)?;
        for record in &refused {
            // It was known as a kind when it was refused.
            let _of_a_known_kind = snapshot.put(record, None);
        }
        Ok(snapshot)
    }
}

/// One more key refers to this number.
fn count(counts: &mut [u32], number: u32) -> Result<(), StoredFault> {
    let place = usize::try_from(number).unwrap_or(usize::MAX);
    let count = counts.get_mut(place).ok_or(StoredFault::Tables)?;
    *count = count.saturating_add(1);
    Ok(())
}

impl Snapshot {
    /// Takes an entry of the journal in, in place. Errors: it cannot be read, or begins elsewhere.
    pub fn replay(&mut self, entry: &JournalEntry) -> Result<(), StoredFault> {
        if self.token != Some(entry.from) {
            return Err(StoredFault::Order);
        }
        let delta = wire::Delta::decode(entry.delta.as_slice())?;
        self.take_in(entry.to, &delta.changes);
        Ok(())
    }
}
