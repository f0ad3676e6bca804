//! The changes since the snapshot file, one after the other, each under a checksum of its own. Reads up to the first that is
//! not whole: what comes before it is a snapshot that was served. Refuses to guess at what comes after.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use snapshot::token::Token;
use uuid::Uuid;

use super::MODE;
use super::format::{Fields, FormatFault};
use crate::live::JournalEntry;

/// The format with its version. Raised when an older gateway could misread the file.
const MAGIC: [u8; 8] = *b"APIHUBL1";
/// CRC-32 of the rest 4, length of the delta 4, epoch 16, from 8, to 8; then the delta. Little-endian.
const ENTRY_HEADER_BYTES: usize = 40;
/// No log grows longer, and no more of one is read. Only one whose file cannot be replaced comes near.
const BYTES_MAX: u64 = 1 << 30;

/// A log as far as it is whole.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) entries: Vec<JournalEntry>,
    /// Of the file, up to the end of the last whole entry.
    pub(super) good_bytes: u64,
    /// Something follows that is not whole.
    pub(super) is_damaged: bool,
}

pub(super) fn read(path: &Path) -> std::io::Result<Log> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Log::default()),
        Err(error) => return Err(error),
    };
    let Some(mut rest) = bytes.strip_prefix(&MAGIC) else {
        return Ok(Log { is_damaged: !bytes.is_empty(), ..Log::default() });
    };
    let mut log = Log { good_bytes: MAGIC.len() as u64, ..Log::default() };
    while !rest.is_empty() {
        let Ok((entry, after)) = take_entry(rest) else {
            log.is_damaged = true;
            break;
        };
        log.good_bytes += (rest.len() - after.len()) as u64;
        log.entries.push(entry);
        rest = after;
    }
    Ok(log)
}

/// Writes entries behind the first `at` bytes of the log, and cuts off whatever was there. Answers how long it is now. On an
/// error it is as long as it was; one is that it would get too long.
pub(super) fn append<'a>(
    path: &Path,
    at: u64,
    entries: impl Iterator<Item = &'a JournalEntry>,
) -> std::io::Result<u64> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(path)?;
    if file.metadata()?.len() < at {
        return Err(ErrorKind::NotFound.into());
    }
    let mut bytes = if at == 0 { MAGIC.to_vec() } else { Vec::new() };
    entries.for_each(|entry| put_entry(entry, &mut bytes));
    let end = at + bytes.len() as u64;
    if end > BYTES_MAX {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let written = file.set_len(at).and_then(|()| file.write_all_at(&bytes, at)).and_then(|()| file.sync_data());
    if written.is_err() {
        // Half an entry would be found and cut off; this only gives the room back.
        drop(file.set_len(at));
    }
    written.map(|()| end)
}

fn put_entry(entry: &JournalEntry, bytes: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(ENTRY_HEADER_BYTES + entry.delta.len());
    // A delta came in one message of the feed, which is bounded far below 4 GiB.
    body.extend_from_slice(&u32::try_from(entry.delta.len()).unwrap_or(u32::MAX).to_le_bytes());
    body.extend_from_slice(entry.to.epoch.as_bytes());
    body.extend_from_slice(&entry.from.revision.to_le_bytes());
    body.extend_from_slice(&entry.to.revision.to_le_bytes());
    body.extend_from_slice(&entry.delta);
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.append(&mut body);
}

fn take_entry(bytes: &[u8]) -> Result<(JournalEntry, &[u8]), FormatFault> {
    let mut fields = Fields(bytes);
    let crc = u32::from_le_bytes(fields.next()?);
    let covered = fields.0;
    let length = usize::try_from(u32::from_le_bytes(fields.next()?)).map_err(|_| FormatFault::Content)?;
    let epoch = Uuid::from_bytes(fields.next()?);
    let token = |revision| Token { epoch, revision };
    let (from, to) = (token(u64::from_le_bytes(fields.next()?)), token(u64::from_le_bytes(fields.next()?)));
    let (delta, rest) = fields.0.split_at_checked(length).ok_or(FormatFault::Content)?;
    let (covered, _) = covered.split_at(covered.len() - rest.len());
    if crc32fast::hash(covered) != crc {
        return Err(FormatFault::Content);
    }
    Ok((JournalEntry { from, to, delta: delta.to_vec() }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_never_grows_beyond_what_is_read_of_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("snapshot.log");
        let token = |revision| Token { epoch: Uuid::from_u128(1), revision };
        let entry = JournalEntry { from: token(1), to: token(2), delta: vec![0; 100] };
        // Without a byte of content on the disk.
        File::create(&path).unwrap().set_len(BYTES_MAX).unwrap();
        let full = BYTES_MAX - 139;
        assert_eq!(append(&path, full, [&entry].into_iter()).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(append(&path, full - 1, [&entry].into_iter()).unwrap(), BYTES_MAX);
    }
}
