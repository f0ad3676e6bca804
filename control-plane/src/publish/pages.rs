//! Records by entity, encoded, in small pages that readers share: so millions of keys cost what they weigh on the wire. A change
//! rewrites the one page that it falls into; whoever holds the former pages holds a whole snapshot. Knows no revisions.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use snapshot::record::{EntityKind, EntityRef};
use snapshot::wire;
use uuid::Uuid;

use super::records::FLEET;

/// Wanted size of a page in bytes: what one change rewrites. One larger record has a page of its own.
const PAGE_BYTES_WANTED: usize = 16 * 1024;
/// A page smaller than this takes the next one in when it is rewritten.
const PAGE_BYTES_MIN: usize = PAGE_BYTES_WANTED / 4;
/// What a page costs beside its bytes: its place in the table, its handle, its allocation.
const PAGE_OVERHEAD_BYTES: usize = 128;

/// What becomes of each entity; `None` removes its record.
pub type Changed = BTreeMap<EntityRef, Option<wire::Record>>;

/// Cloning copies the table of pages, never a page.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    /// By the first entity of each; a page is the bytes of an encoded `Records`, in the order of entities.
    pages: BTreeMap<EntityRef, Bytes>,
    count: usize,
    bytes: usize,
}

impl Pages {
    /// Records.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What all of it takes in memory, about.
    pub fn resident_bytes(&self) -> usize {
        self.bytes + self.pages.len() * PAGE_OVERHEAD_BYTES
    }

    pub fn get(&self, entity: &EntityRef) -> Option<wire::Record> {
        let (_, page) = self.pages.range(..=entity).next_back()?;
        let entry = Entries { rest: page }.find(|entry| entry.entity >= *entity)?;
        (entry.entity == *entity).then(|| entry.record()).flatten()
    }

    /// Everything as encoded `Records`, each of about `bytes_wanted`: what a full snapshot is sent as.
    pub fn chunks(&self, bytes_wanted: usize) -> impl Iterator<Item = Bytes> {
        let mut pages = self.pages.values().peekable();
        std::iter::from_fn(move || {
            let mut chunk = pages.next()?.clone();
            if pages.peek().is_some_and(|next| chunk.len() + next.len() <= bytes_wanted) {
                let mut joined = Vec::with_capacity(bytes_wanted);
                joined.extend_from_slice(&chunk);
                while let Some(next) = pages.next_if(|next| joined.len() + next.len() <= bytes_wanted) {
                    joined.extend_from_slice(next);
                }
                chunk = joined.into();
            }
            Some(chunk)
        })
    }

    /// Answers which entities are other than before. What is equal to what is there is no change.
    pub fn apply(&mut self, changed: &Changed) -> Vec<EntityRef> {
        let mut different = Vec::new();
        let mut from = Unbounded;
        while let Some((entity, _)) = changed.range((from, Unbounded)).next() {
            let first = self.first_of_page(entity);
            let next = first.and_then(|first| self.pages.range((Excluded(first), Unbounded)).next());
            let next = next.map(|(first, _)| *first);
            let here = changed.range(entity..).take_while(|(entity, _)| next.is_none_or(|next| **entity < next));
            let here: Vec<_> = here.collect();
            let page = first.and_then(|first| self.pages.get(&first).cloned()).unwrap_or_default();
            let known = different.len();
            let merged = self.merge(&page, &here, &mut different);
            if different.len() > known {
                self.replace(first, page.len(), merged, next);
            }
            from = here.last().map_or(Unbounded, |(entity, _)| Excluded(**entity));
        }
        different
    }

    /// The page that holds an entity, or would; `None` where there is no page at all.
    fn first_of_page(&self, entity: &EntityRef) -> Option<EntityRef> {
        let before = self.pages.range(..=entity).next_back();
        before.or_else(|| self.pages.first_key_value()).map(|(first, _)| *first)
    }

    fn merge(
        &mut self,
        page: &[u8],
        changes: &[(&EntityRef, &Option<wire::Record>)],
        different: &mut Vec<EntityRef>,
    ) -> Vec<u8> {
        let mut held = Entries { rest: page }.peekable();
        let mut merged = Vec::with_capacity(page.len() + 256);
        for (entity, record) in changes {
            while let Some(entry) = held.next_if(|entry| entry.entity < **entity) {
                merged.extend_from_slice(entry.framed);
            }
            let before = held.next_if(|entry| entry.entity == **entity).map(|entry| entry.framed);
            let start = merged.len();
            if let Some(record) = record {
                frame(record, &mut merged);
            }
            let now = merged.get(start..).filter(|framed| !framed.is_empty());
            if before != now {
                different.push(**entity);
                self.count = self.count + usize::from(now.is_some()) - usize::from(before.is_some());
            }
        }
        held.for_each(|entry| merged.extend_from_slice(entry.framed));
        merged
    }

    /// Puts `merged` where the page at `first`, of `bytes` bytes, was; a small remainder takes in the page at `next`.
    fn replace(&mut self, first: Option<EntityRef>, bytes: usize, mut merged: Vec<u8>, next: Option<EntityRef>) {
        if let Some(first) = first {
            self.pages.remove(&first);
            self.bytes -= bytes;
        }
        if merged.len() < PAGE_BYTES_MIN
            && let Some(page) = next.and_then(|next| self.pages.remove(&next))
        {
            self.bytes -= page.len();
            merged.extend_from_slice(&page);
        }
        // Pages of equal size, rather than a full one and a small rest.
        let pieces = merged.len().div_ceil(PAGE_BYTES_WANTED).max(1);
        let wanted = merged.len().div_ceil(pieces);
        let (mut start, mut end, mut first) = (0, 0, None);
        for entry in (Entries { rest: &merged }) {
            if end > start && end - start + entry.framed.len() > wanted.max(PAGE_BYTES_MIN) {
                self.insert(first.take(), merged.get(start..end));
                start = end;
            }
            first = first.or(Some(entry.entity));
            end += entry.framed.len();
        }
        self.insert(first, merged.get(start..end));
    }

    fn insert(&mut self, first: Option<EntityRef>, page: Option<&[u8]>) {
        if let (Some(first), Some(page)) = (first, page) {
            self.bytes += page.len();
            self.pages.insert(first, Bytes::copy_from_slice(page));
        }
    }

    /// Everything, decoded.
    #[cfg(test)]
    pub(crate) fn to_map(&self) -> BTreeMap<EntityRef, wire::Record> {
        let entries = self.pages.values().flat_map(|page| Entries { rest: page });
        entries.map(|entry| (entry.entity, entry.record().unwrap())).collect()
    }
}

/// Pages of records that come in the order of their entities.
#[derive(Default)]
pub struct PagesInOrder {
    done: Pages,
    first: Option<EntityRef>,
    page: Vec<u8>,
}

impl PagesInOrder {
    pub fn push(&mut self, entity: EntityRef, record: &wire::Record) {
        let start = self.page.len();
        frame(record, &mut self.page);
        if start > 0 && self.page.len() > PAGE_BYTES_WANTED {
            self.done.insert(self.first.replace(entity), self.page.get(..start));
            self.page.drain(..start);
        }
        self.first = self.first.or(Some(entity));
        self.done.count += 1;
    }

    pub fn finish(mut self) -> Pages {
        self.done.insert(self.first, Some(&self.page));
        self.done
    }
}

/// The bytes of `Records { records: [record] }`: such bytes one after the other are `Records` again.
fn frame(record: &wire::Record, into: &mut Vec<u8>) {
    prost::encoding::message::encode(1, record, into);
}

/// One record of a page.
struct Entry<'a> {
    entity: EntityRef,
    framed: &'a [u8],
    record: &'a [u8],
}

impl Entry<'_> {
    fn record(&self) -> Option<wire::Record> {
        wire::Record::decode(self.record).ok()
    }
}

/// The records of a page, in order. A page is what `frame` wrote, so that nothing here ever fails.
struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let mut after = self.rest;
        let (_, record) = field(&mut after)?;
        let framed = self.rest.get(..self.rest.len() - after.len())?;
        self.rest = after;
        Some(Entry { entity: entity_of(record)?, framed, record })
    }
}

/// Reads one field that holds bytes: its number, and them.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let (number, kind) = decode_key(rest).ok()?;
    if kind != WireType::LengthDelimited {
        return None;
    }
    let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
    let (content, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some((number, content))
}

/// Every kind of record but the fleet's begins with its id.
fn entity_of(mut record: &[u8]) -> Option<EntityRef> {
    let (kind, mut content) = field(&mut record)?;
    let kind = match kind {
        1 => return Some(FLEET),
        2 => EntityKind::Product,
        3 => EntityKind::Plan,
        4 => EntityKind::Subscription,
        5 => EntityKind::Key,
        _ => return None,
    };
    let (1, id) = field(&mut content)? else { return None };
    Some(EntityRef { kind, id: Uuid::from_slice(id).ok()? })
}

#[cfg(test)]
mod tests;
