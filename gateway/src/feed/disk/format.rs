//! The bytes of a snapshot file: a header with its own checksum, then blocks, each under a SHA-256 that also knows the file and
//! the block's place in it. Reads nothing that does not agree in every byte; bounds what it allocates by what the file can hold.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};
use snapshot::token::Token;
use uuid::Uuid;

use crate::live::stored::{BlockKind, StoredFault};

const MAGIC: [u8; 8] = *b"APIHUBSN";
/// Raised when an older gateway could misread the file.
const VERSION: u32 = 2;
/// Magic 8, version 4, epoch 16, revision 8, saved at 8, blocks 4, bytes of all blocks 8, CRC-32 of these 4. Little-endian.
pub(super) const HEADER_BYTES: usize = 60;
const CRC_AT: usize = HEADER_BYTES - 4;
/// Kind 1, length 4, SHA-256 32.
const BLOCK_HEADER_BYTES: usize = 37;
/// The kinds by their numbers in a file.
const KINDS: [BlockKind; 6] =
    [BlockKind::Numbers, BlockKind::Scopes, BlockKind::Records, BlockKind::Keys, BlockKind::Ids, BlockKind::Refused];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) token: Token,
    pub(super) saved_at_ms: i64,
    blocks: u32,
    payload_bytes: u64,
}

/// Where a block's content is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) kind: BlockKind,
    offset: u64,
    length: u32,
    digest: [u8; 32],
}

#[derive(Debug, thiserror::Error)]
pub enum FormatFault {
    #[error("this is not a snapshot file")]
    Magic,
    #[error("version {0} of the format is not known here (known: {VERSION})")]
    Version(u32),
    #[error("the header is damaged")]
    Header,
    #[error("the file has {actual} bytes where {wanted} were written")]
    Length { actual: u64, wanted: u64 },
    #[error("the content is damaged")]
    Content,
    #[error("the content does not fit together: {0}")]
    Stored(#[from] StoredFault),
    #[error("it cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

/// The header of a file that has as many bytes as it says.
pub(super) fn read_header(file: &File) -> Result<Header, FormatFault> {
    let mut bytes = [0u8; HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => FormatFault::Header,
        _ => FormatFault::Io(error),
    })?;
    let header = Header::decode(&bytes)?;
    let wanted = header.payload_bytes.saturating_add(HEADER_BYTES as u64);
    let actual = file.metadata()?.len();
    if actual == wanted { Ok(header) } else { Err(FormatFault::Length { actual, wanted }) }
}

/// Where all blocks are; they fill the file without a gap.
pub(super) fn places(file: &File, header: &Header) -> Result<Vec<Place>, FormatFault> {
    let end = header.payload_bytes.saturating_add(HEADER_BYTES as u64);
    let (mut places, mut at) = (Vec::new(), HEADER_BYTES as u64);
    for _ in 0..header.blocks {
        let mut bytes = [0u8; BLOCK_HEADER_BYTES];
        if end.saturating_sub(at) < BLOCK_HEADER_BYTES as u64 {
            return Err(FormatFault::Content);
        }
        file.read_exact_at(&mut bytes, at)?;
        let mut fields = Fields(&bytes);
        let [kind] = fields.next()?;
        let kind = *KINDS.get(usize::from(kind)).ok_or(FormatFault::Content)?;
        let (length, digest) = (u32::from_le_bytes(fields.next()?), fields.next()?);
        let offset = at + BLOCK_HEADER_BYTES as u64;
        at = offset + u64::from(length);
        if at > end {
            return Err(FormatFault::Content);
        }
        places.push(Place { kind, offset, length, digest });
    }
    if at == end { Ok(places) } else { Err(FormatFault::Content) }
}

/// A block's content, if it is what was written as the `index`th block of this very file.
pub(super) fn read_block(file: &File, header: &Header, index: usize, place: &Place) -> Result<Vec<u8>, FormatFault> {
    let length = usize::try_from(place.length).map_err(|_| FormatFault::Content)?;
    let index = u32::try_from(index).map_err(|_| FormatFault::Content)?;
    let mut block = vec![0; length];
    file.read_exact_at(&mut block, place.offset)?;
    let is_same = digest(header, index, place.kind, &block) == place.digest;
    if is_same { Ok(block) } else { Err(FormatFault::Content) }
}

/// Writes blocks as they come, and in the end the header in front of them.
pub(super) struct Writer<W> {
    file: W,
    header: Header,
}

impl<W: Write + Seek> Writer<W> {
    pub(super) fn begin(mut file: W, token: Token, saved_at_ms: i64) -> std::io::Result<Writer<W>> {
        file.write_all(&[0u8; HEADER_BYTES])?;
        Ok(Writer { file, header: Header { token, saved_at_ms, blocks: 0, payload_bytes: 0 } })
    }

    pub(super) fn block(&mut self, kind: BlockKind, block: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(block.len()).map_err(std::io::Error::other)?;
        self.file.write_all(&[number_of(kind)])?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&digest(&self.header, self.header.blocks, kind, block))?;
        self.file.write_all(block)?;
        self.header.blocks += 1;
        self.header.payload_bytes += BLOCK_HEADER_BYTES as u64 + u64::from(length);
        Ok(())
    }

    /// Of the file so far.
    pub(super) fn bytes(&self) -> u64 {
        self.header.payload_bytes + HEADER_BYTES as u64
    }

    pub(super) fn file(&mut self) -> &mut W {
        &mut self.file
    }

    /// Gives the file back unflushed.
    pub(super) fn finish(mut self) -> std::io::Result<W> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&self.header.encode())?;
        Ok(self.file)
    }
}

/// In the order of [`KINDS`].
fn number_of(kind: BlockKind) -> u8 {
    KINDS.iter().zip(0u8..).find(|(known, _)| **known == kind).map_or(u8::MAX, |(_, number)| number)
}

/// A block of another file, or from another place of this one, has another digest.
fn digest(header: &Header, index: u32, kind: BlockKind, block: &[u8]) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(header.token.epoch.as_bytes());
    digest.update(header.token.revision.to_le_bytes());
    digest.update(header.saved_at_ms.to_le_bytes());
    digest.update(index.to_le_bytes());
    digest.update([number_of(kind)]);
    digest.update(block);
    digest.finalize().into()
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(self.token.epoch.as_bytes());
        bytes.extend_from_slice(&self.token.revision.to_le_bytes());
        bytes.extend_from_slice(&self.saved_at_ms.to_le_bytes());
        bytes.extend_from_slice(&self.blocks.to_le_bytes());
        bytes.extend_from_slice(&self.payload_bytes.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FormatFault> {
        let mut fields = Fields(bytes);
        if fields.next()? != MAGIC {
            return Err(FormatFault::Magic);
        }
        let version = u32::from_le_bytes(fields.next()?);
        if version != VERSION {
            return Err(FormatFault::Version(version));
        }
        let token = Token { epoch: Uuid::from_bytes(fields.next()?), revision: u64::from_le_bytes(fields.next()?) };
        let header = Header {
            token,
            saved_at_ms: i64::from_le_bytes(fields.next()?),
            blocks: u32::from_le_bytes(fields.next()?),
            payload_bytes: u64::from_le_bytes(fields.next()?),
        };
        let (covered, _) = bytes.split_at(CRC_AT);
        let crc = u32::from_le_bytes(fields.next()?);
        if crc32fast::hash(covered) == crc { Ok(header) } else { Err(FormatFault::Header) }
    }
}

/// Takes fixed pieces from the front.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn next<const N: usize>(&mut self) -> Result<[u8; N], FormatFault> {
        let (piece, rest) = self.0.split_first_chunk().ok_or(FormatFault::Header)?;
        self.0 = rest;
        Ok(*piece)
    }
}
