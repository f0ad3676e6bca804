//! How a spool's file holds what it holds: frames of a length, a checksum and a body. A frame is whole or it is not there.
//! Opens no file.

use uuid::Uuid;

/// A frame's length and its checksum.
pub(super) const FRAME_HEAD_BYTES: usize = 8;
/// Largest body of a frame: twice the largest entry that a control plane takes.
pub(super) const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most rings that one process has.
const RINGS_MAX: usize = 4_096;

const KIND_START: u8 = 1;
const KIND_BATCH: u8 = 2;

const CLOSES_EPOCH: u8 = 1;
const IS_COMPACTED: u8 = 2;

/// What a frame says of the batch that it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BatchHead {
    pub(super) sequence: u64,
    /// When it was sealed.
    pub(super) at_ms: i64,
    pub(super) low_watermark_ms: i64,
    pub(super) events: u32,
    pub(super) closes_epoch: bool,
    pub(super) is_compacted: bool,
    /// For each ring, the index behind the last record that this batch or an earlier one holds: sealing is the commit point.
    pub(super) positions: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// The first one of each file.
    Start { node: Uuid, epoch: Uuid },
    /// `payload` is an encoded `UsageBatch`.
    Batch(BatchHead, &'a [u8]),
}

/// A frame's bytes as they are written.
pub(super) fn start_frame(node: Uuid, epoch: Uuid) -> Vec<u8> {
    let mut body = vec![KIND_START];
    body.extend_from_slice(node.as_bytes());
    body.extend_from_slice(epoch.as_bytes());
    framed(&[&body])
}

pub(super) fn batch_frame(head: &BatchHead, payload: &[u8]) -> Vec<u8> {
    let flags = if head.closes_epoch { CLOSES_EPOCH } else { 0 } | if head.is_compacted { IS_COMPACTED } else { 0 };
    let mut body = vec![KIND_BATCH, flags];
    body.extend_from_slice(&head.sequence.to_le_bytes());
    body.extend_from_slice(&head.at_ms.to_le_bytes());
    body.extend_from_slice(&head.low_watermark_ms.to_le_bytes());
    body.extend_from_slice(&head.events.to_le_bytes());
    body.extend_from_slice(&u16::try_from(head.positions.len()).unwrap_or(u16::MAX).to_le_bytes());
    for position in &head.positions {
        body.extend_from_slice(&position.to_le_bytes());
    }
    framed(&[&body, payload])
}

fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut crc = crc32fast::Hasher::new();
    parts.iter().for_each(|part| crc.update(part));
    let mut bytes = Vec::with_capacity(FRAME_HEAD_BYTES + length);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&crc.finalize().to_le_bytes());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

/// What stands at the beginning of `bytes`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// And the bytes that it takes.
    Whole(Frame<'a>, usize),
    /// A frame of this many bytes that was changed after it was written.
    Damaged(usize),
    /// The end, or a frame that was not written to its end.
    End,
}

pub(super) fn next_frame(bytes: &[u8]) -> Found<'_> {
    let mut fields = Fields(bytes);
    let (Some(length), Some(crc)) = (fields.u32(), fields.u32()) else { return Found::End };
    let Ok(length) = usize::try_from(length) else { return Found::End };
    if length == 0 || length > FRAME_BYTES_MAX {
        return Found::End;
    }
    let Some(body) = fields.0.get(..length) else { return Found::End };
    let taken = FRAME_HEAD_BYTES + length;
    if crc32fast::hash(body) != crc {
        return Found::Damaged(taken);
    }
    parse(body).map_or(Found::Damaged(taken), |frame| Found::Whole(frame, taken))
}

fn parse(body: &[u8]) -> Option<Frame<'_>> {
    let mut fields = Fields(body);
    match fields.u8()? {
        KIND_START => Some(Frame::Start { node: fields.uuid()?, epoch: fields.uuid()? }),
        KIND_BATCH => {
            let flags = fields.u8()?;
            let (sequence, at_ms, low_watermark_ms) = (fields.u64()?, fields.i64()?, fields.i64()?);
            let (events, rings) = (fields.u32()?, usize::from(fields.u16()?));
            if rings > RINGS_MAX {
                return None;
            }
            let positions = (0..rings).map(|_| fields.u64()).collect::<Option<Vec<u64>>>()?;
            let closes_epoch = flags & CLOSES_EPOCH != 0;
            let is_compacted = flags & IS_COMPACTED != 0;
            let head = BatchHead { sequence, at_ms, low_watermark_ms, events, closes_epoch, is_compacted, positions };
            Some(Frame::Batch(head, fields.0))
        }
        _ => None,
    }
}

/// What is left to read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    fn uuid(&mut self) -> Option<Uuid> {
        self.take().map(Uuid::from_bytes)
    }
}
