//! Reads a snapshot file on as many threads as there are cores: they check and decode the blocks, this one puts them together
//! in their order. Answers nothing before all of it is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::format::{self, FormatFault, Header, Place};
use crate::live::Snapshot;
use crate::live::stored::{Decoded, Restoring, decode};

/// More threads than this wait for the one that puts the blocks together.
const THREADS_MAX: usize = 4;
/// Decoded blocks that wait to be put together, about a mebibyte each.
const WAITING_BLOCKS_MAX: usize = 128;

type Block = Result<Decoded, FormatFault>;

pub(super) fn read(file: &File) -> Result<(Header, Snapshot), FormatFault> {
    let header = format::read_header(file)?;
    let places = format::places(file, &header)?;
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX).min(places.len());
    let next = AtomicUsize::new(0);
    let snapshot = thread::scope(|scope| {
        let (sender, blocks) = sync_channel(WAITING_BLOCKS_MAX);
        for _ in 0..threads {
            let (sender, next, places, header) = (sender.clone(), &next, &places, &header);
            scope.spawn(move || decode_blocks(file, header, places, next, &sender));
        }
        drop(sender);
        put_together(&header, &places, blocks)
    })?;
    Ok((header, snapshot))
}

/// Until there are no more, or nobody wants them.
fn decode_blocks(
    file: &File,
    header: &Header,
    places: &[Place],
    next: &AtomicUsize,
    sender: &SyncSender<(usize, Block)>,
) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(place) = places.get(index) else { return };
        let block = format::read_block(file, header, index, place);
        let block = block.and_then(|block| Ok(decode(place.kind, &block)?));
        if sender.send((index, block)).is_err() {
            return;
        }
    }
}

fn put_together(header: &Header, places: &[Place], blocks: Receiver<(usize, Block)>) -> Result<Snapshot, FormatFault> {
    let mut restoring = Restoring::default();
    let mut early = BTreeMap::new();
    let mut wanted = 0;
    for (index, block) in blocks {
        early.insert(index, block?);
        while let (Some(block), Some(place)) = (early.remove(&wanted), places.get(wanted)) {
            restoring.take(place.kind, block)?;
            wanted += 1;
        }
    }
    if wanted < places.len() {
        return Err(FormatFault::Content);
    }
    Ok(restoring.finish(header.token)?)
}
