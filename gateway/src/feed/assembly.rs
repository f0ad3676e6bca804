//! Checks the order of the feed's messages: a manifest, its chunks and its seal are one full snapshot, a delta follows what is
//! served. Pure; holds no records. Refuses chunks that are damaged or out of turn, and deltas that begin elsewhere.

use prost::Message as _;
use sha2::{Digest, Sha256};
use snapshot::token::{Token, TokenFault};
use snapshot::wire::to_gateway::Message;
use snapshot::wire::{Change, Chunk, Delta, Manifest, Record, Records, Seal};
use uuid::Uuid;

use crate::metrics::labels::ApplyFailure;

/// Chunks of one full snapshot: with a few thousand records each, a few hundred million records.
const CHUNKS_MAX: u32 = 65_536;

/// What a message leads to.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// A whole snapshot begins; what came of another one is void.
    Begin(Token),
    /// More of it.
    Records(Vec<Record>),
    /// It has arrived whole.
    Full(Token),
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
    #[error("a full snapshot has more than {CHUNKS_MAX} chunks")]
    TooManyChunks,
    #[error("chunk {0} does not have its digest")]
    Digest(u32),
    #[error("chunk {0} cannot be decoded")]
    Chunk(u32),
    #[error("chunk {got} arrived where {wanted:?} was expected")]
    ChunkOutOfTurn { got: u32, wanted: Option<u32> },
    #[error("a seal does not fit what arrived before it")]
    Seal,
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
            AssemblyFault::Digest(_) | AssemblyFault::Seal => ApplyFailure::Digest,
            AssemblyFault::Older { .. }
            | AssemblyFault::ChunkOutOfTurn { .. }
            | AssemblyFault::DeltaOutOfTurn { .. } => ApplyFailure::OutOfOrder,
            _ => ApplyFailure::Message,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Assembly {
    partial: Option<Partial>,
}

/// A full snapshot that is still arriving.
#[derive(Debug)]
struct Partial {
    token: Token,
    arrived: u32,
    /// Of the chunks' digests so far.
    seal: Sha256,
}

impl Assembly {
    /// Takes one message in; `served` is what the gateway serves.
    pub(super) fn take(&mut self, message: Option<Message>, served: Option<Token>) -> Result<Step, AssemblyFault> {
        match message.ok_or(AssemblyFault::Empty)? {
            Message::Manifest(manifest) => self.begin(&manifest, served),
            Message::Chunk(chunk) => self.add(chunk),
            Message::Seal(seal) => self.end(&seal),
            Message::Delta(delta) => self.follow_on(delta, served),
            // A control plane that still builds its snapshot knows no newest, and says only that it lives.
            Message::Heartbeat(heartbeat) => match &heartbeat.newest {
                Some(newest) => Ok(Step::Newest(newest.try_into()?)),
                None => Ok(Step::Wait),
            },
        }
    }

    fn begin(&mut self, manifest: &Manifest, served: Option<Token>) -> Result<Step, AssemblyFault> {
        let token: Token = manifest.token.as_ref().ok_or(AssemblyFault::Field("manifest.token"))?.try_into()?;
        if let Some(served) = served.filter(|served| served.epoch == token.epoch && served.revision > token.revision) {
            return Err(AssemblyFault::Older { offered: token.revision, served: served.revision });
        }
        self.partial = Some(Partial { token, arrived: 0, seal: Sha256::new() });
        Ok(Step::Begin(token))
    }

    fn add(&mut self, chunk: Chunk) -> Result<Step, AssemblyFault> {
        let index = chunk.index;
        let wanted = self.partial.as_ref().map(|partial| partial.arrived);
        let Some(partial) = self.partial.as_mut().filter(|partial| partial.arrived == index) else {
            return Err(AssemblyFault::ChunkOutOfTurn { got: index, wanted });
        };
        if index >= CHUNKS_MAX {
            return Err(AssemblyFault::TooManyChunks);
        }
        let digest = Sha256::digest(&chunk.records);
        if digest.as_slice() != chunk.digest {
            return Err(AssemblyFault::Digest(index));
        }
        partial.seal.update(digest);
        partial.arrived += 1;
        let records = Records::decode(chunk.records).map_err(|_| AssemblyFault::Chunk(index))?;
        Ok(Step::Records(records.records))
    }

    fn end(&mut self, seal: &Seal) -> Result<Step, AssemblyFault> {
        let partial = self.partial.take().ok_or(AssemblyFault::Seal)?;
        let fits = partial.arrived == seal.chunks && partial.seal.finalize().as_slice() == seal.digest;
        if fits { Ok(Step::Full(partial.token)) } else { Err(AssemblyFault::Seal) }
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
