//! The bytes of a snapshot file: a header with its own checksum, then records, each with its length, under one SHA-256. Reads
//! nothing that does not agree in every byte; bounds what it allocates by what the file can hold.

use std::io::{Read, Seek, SeekFrom, Write};

use prost::Message;
use sha2::{Digest, Sha256};
use snapshot::token::Token;
use snapshot::wire::{FEED_MESSAGE_BYTES_MAX, Record};
use uuid::Uuid;

const MAGIC: [u8; 8] = *b"APIHUBSN";
/// Raised when an older gateway could misread the file.
const VERSION: u32 = 1;
/// Magic 8, version 4, epoch 16, revision 8, saved at 8, records 8, payload length 8, payload SHA-256 32, CRC-32 of these 4.
/// Numbers are little-endian.
const HEADER_BYTES: usize = 96;
const CRC_AT: usize = HEADER_BYTES - 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) token: Token,
    pub(super) saved_at_ms: i64,
    records: u64,
    payload_bytes: u64,
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
    #[error("it cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

/// Reads a file of `length` bytes.
pub(super) fn read(mut file: impl Read, length: u64) -> Result<(Header, Vec<Record>), FormatFault> {
    let mut bytes = [0u8; HEADER_BYTES];
    file.read_exact(&mut bytes).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => FormatFault::Header,
        _ => FormatFault::Io(error),
    })?;
    let header = Header::decode(&bytes)?;
    let wanted = header.payload_bytes.saturating_add(HEADER_BYTES as u64);
    if length != wanted {
        return Err(FormatFault::Length { actual: length, wanted });
    }
    let records = read_records(&mut file, &header)?;
    Ok((header, records))
}

fn read_records(file: &mut impl Read, header: &Header) -> Result<Vec<Record>, FormatFault> {
    let mut digest = Sha256::new();
    let mut left = header.payload_bytes;
    let (mut records, mut bytes) = (Vec::new(), Vec::new());
    for _ in 0..header.records {
        let mut length = [0u8; 4];
        left = left.checked_sub(4).ok_or(FormatFault::Content)?;
        file.read_exact(&mut length)?;
        digest.update(length);
        let length = u32::from_le_bytes(length);
        left = left.checked_sub(u64::from(length)).ok_or(FormatFault::Content)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > FEED_MESSAGE_BYTES_MAX {
            return Err(FormatFault::Content);
        }
        bytes.resize(length, 0);
        file.read_exact(&mut bytes)?;
        digest.update(&bytes);
        records.push(Record::decode(bytes.as_slice()).map_err(|_| FormatFault::Content)?);
    }
    let same = digest.finalize().as_slice() == header.digest;
    if left == 0 && same { Ok(records) } else { Err(FormatFault::Content) }
}

/// Writes the records as they come, then the header in front of them, and gives the file back unflushed.
pub(super) fn write<W: Write + Seek>(
    mut file: W,
    token: Token,
    saved_at_ms: i64,
    records: impl IntoIterator<Item = Record>,
) -> std::io::Result<W> {
    file.write_all(&[0u8; HEADER_BYTES])?;
    let mut digest = Sha256::new();
    let mut header = Header { token, saved_at_ms, records: 0, payload_bytes: 0, digest: [0; 32] };
    let mut bytes = Vec::new();
    for record in records {
        bytes.clear();
        let length = u32::try_from(record.encoded_len()).map_err(std::io::Error::other)?;
        bytes.extend_from_slice(&length.to_le_bytes());
        record.encode(&mut bytes).map_err(std::io::Error::other)?;
        digest.update(&bytes);
        file.write_all(&bytes)?;
        header.records += 1;
        header.payload_bytes += u64::from(length) + 4;
    }
    header.digest = digest.finalize().into();
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header.encode())?;
    Ok(file)
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(self.token.epoch.as_bytes());
        bytes.extend_from_slice(&self.token.revision.to_le_bytes());
        bytes.extend_from_slice(&self.saved_at_ms.to_le_bytes());
        bytes.extend_from_slice(&self.records.to_le_bytes());
        bytes.extend_from_slice(&self.payload_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.digest);
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
            records: u64::from_le_bytes(fields.next()?),
            payload_bytes: u64::from_le_bytes(fields.next()?),
            digest: fields.next()?,
        };
        let (covered, _) = bytes.split_at(CRC_AT);
        let crc = u32::from_le_bytes(fields.next()?);
        if crc32fast::hash(covered) == crc { Ok(header) } else { Err(FormatFault::Header) }
    }
}

/// Takes fixed pieces from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn next<const N: usize>(&mut self) -> Result<[u8; N], FormatFault> {
        let (piece, rest) = self.0.split_first_chunk().ok_or(FormatFault::Header)?;
        self.0 = rest;
        Ok(*piece)
    }
}
