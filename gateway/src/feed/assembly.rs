//! Puts the feed's messages together: a manifest and its chunks become the next snapshot, chunk by chunk as they arrive, a delta
//! is checked against what is served. Touches nothing that is served. Refuses chunks that are damaged or out of turn, and deltas
//! that begin elsewhere.

use std::sync::Arc;

use prost::Message as _;
use sha2::{Digest, Sha256};
use snapshot::token::{Token, TokenFault};
use snapshot::wire::to_gateway::Message;
use snapshot::wire::{Change, Chunk, Delta, Manifest, Records};
use uuid::Uuid;

use crate::live::{Building, Snapshot};
use crate::metrics::labels::ApplyFailure;

/// Chunks of one full snapshot: with 2,048 records each, 33 million records.
const CHUNKS_MAX: usize = 16_384;

/// What a message leads to.
pub(super) enum Step {
    /// A whole snapshot has arrived, and has only to be finished.
    Full {
        token: Token,
        building: Box<Building>,
    },
    Delta {
        token: Token,
        changes: Vec<Change>,
    },
    /// Nothing to do but to know what the newest is.
    Newest(Token),
    /// More is to come.
    Wait,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum AssemblyFault {
    #[error("a message holds nothing that this version knows")]
    Empty,
    #[error("{0} is missing or not valid")]
    Field(&'static str),
    #[error(transparent)]
    Token(#[from] TokenFault),
    #[error("a manifest announces {0} chunks, more than {CHUNKS_MAX}")]
    TooManyChunks(usize),
    #[error("chunk {0} does not have the announced digest")]
    Digest(u32),
    #[error("chunk {0} cannot be decoded")]
    Chunk(u32),
    #[error("chunk {got} arrived where {wanted:?} was expected")]
    ChunkOutOfTurn { got: u32, wanted: Option<usize> },
    #[error(
        "a full snapshot of revision {offered} is older than {served}, which is served: it would revive what was revoked"
    )]
    Older { offered: u64, served: u64 },
    #[error("a delta from revision {from} does not follow what is served")]
    DeltaOutOfTurn { from: u64 },
}

impl AssemblyFault {
    pub(super) fn reason(&self) -> ApplyFailure {
        match self {
            AssemblyFault::Digest(_) => ApplyFailure::Digest,
            AssemblyFault::Older { .. }
            | AssemblyFault::ChunkOutOfTurn { .. }
            | AssemblyFault::DeltaOutOfTurn { .. } => ApplyFailure::OutOfOrder,
            _ => ApplyFailure::Message,
        }
    }
}

#[derive(Default)]
pub(super) struct Assembly {
    partial: Option<Partial>,
}

/// A full snapshot that is still arriving. It holds one chunk's records at a time, and the tables that they become.
struct Partial {
    token: Token,
    digests: Vec<[u8; 32]>,
    arrived: usize,
    building: Box<Building>,
}

impl Assembly {
    /// Takes one message in; `served` is what the gateway serves.
    pub(super) fn take(&mut self, message: Option<Message>, served: &Arc<Snapshot>) -> Result<Step, AssemblyFault> {
        match message.ok_or(AssemblyFault::Empty)? {
            Message::Manifest(manifest) => self.begin(&manifest, served),
            Message::Chunk(chunk) => self.add(&chunk),
            Message::Delta(delta) => self.follow_on(delta, served.token),
            // A control plane that still builds its snapshot knows no newest, and says only that it lives.
            Message::Heartbeat(heartbeat) => match &heartbeat.newest {
                Some(newest) => Ok(Step::Newest(newest.try_into()?)),
                None => Ok(Step::Wait),
            },
        }
    }

    fn begin(&mut self, manifest: &Manifest, held: &Arc<Snapshot>) -> Result<Step, AssemblyFault> {
        let token: Token = manifest.token.as_ref().ok_or(AssemblyFault::Field("manifest.token"))?.try_into()?;
        if let Some(served) =
            held.token.filter(|served| served.epoch == token.epoch && served.revision > token.revision)
        {
            return Err(AssemblyFault::Older { offered: token.revision, served: served.revision });
        }
        if manifest.chunk_digests.len() > CHUNKS_MAX {
            return Err(AssemblyFault::TooManyChunks(manifest.chunk_digests.len()));
        }
        let digest = |bytes: &Vec<u8>| {
            <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| AssemblyFault::Field("manifest.chunk_digests"))
        };
        let digests = manifest.chunk_digests.iter().map(digest).collect::<Result<_, _>>()?;
        let building = Box::new(Building::beside(Arc::clone(held)));
        self.partial = Some(Partial { token, digests, arrived: 0, building });
        Ok(self.finish())
    }

    fn add(&mut self, chunk: &Chunk) -> Result<Step, AssemblyFault> {
        let wanted = self.partial.as_ref().map(|partial| partial.arrived);
        let out_of_turn = AssemblyFault::ChunkOutOfTurn { got: chunk.index, wanted };
        let Some(partial) = self.partial.as_mut().filter(|_| usize::try_from(chunk.index).ok() == wanted) else {
            return Err(out_of_turn);
        };
        let digest = partial.digests.get(partial.arrived).ok_or(out_of_turn)?;
        if Sha256::digest(&chunk.records).as_slice() != digest {
            return Err(AssemblyFault::Digest(chunk.index));
        }
        let records = Records::decode(chunk.records.clone()).map_err(|_| AssemblyFault::Chunk(chunk.index))?;
        records.records.iter().for_each(|record| partial.building.put(record));
        partial.arrived += 1;
        Ok(self.finish())
    }

    fn finish(&mut self) -> Step {
        match self.partial.take_if(|partial| partial.arrived == partial.digests.len()) {
            Some(whole) => Step::Full { token: whole.token, building: whole.building },
            None => Step::Wait,
        }
    }

    fn follow_on(&mut self, delta: Delta, served: Option<Token>) -> Result<Step, AssemblyFault> {
        let epoch = Uuid::from_slice(&delta.epoch).map_err(|_| AssemblyFault::Field("delta.epoch"))?;
        let from = Token { epoch, revision: delta.from };
        if self.partial.is_some() || served != Some(from) || delta.to < delta.from {
            return Err(AssemblyFault::DeltaOutOfTurn { from: delta.from });
        }
        Ok(Step::Delta { token: Token { epoch, revision: delta.to }, changes: delta.changes })
    }
}
