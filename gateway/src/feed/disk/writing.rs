//! Writes a snapshot file at a pace that leaves the disk to others, and to the disk as it goes. Renames nothing.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use snapshot::token::Token;

use super::MODE;
use super::format::Writer;
use crate::live::Snapshot;

/// What a save takes of the disk, in bytes a second.
const BYTES_PER_S_MAX: u64 = 64 << 20;
/// After as many bytes they are brought to the disk, so that the end does not have to wait for all of them.
const SYNC_BYTES: u64 = 32 << 20;

/// Answers the bytes of the file. `between` answers whether to hurry.
pub(super) fn write(
    path: &Path,
    snapshot: &Snapshot,
    token: Token,
    saved_at_ms: i64,
    mut between: impl FnMut() -> bool,
) -> std::io::Result<u64> {
    let file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)?;
    let mut writer = Writer::begin(file, token, saved_at_ms)?;
    let (began, mut synced) = (Instant::now(), 0);
    snapshot.write_blocks(|kind, block| {
        writer.block(kind, block)?;
        let bytes = writer.bytes();
        if bytes - synced > SYNC_BYTES {
            synced = bytes;
            writer.file().sync_data()?;
        }
        if !between() {
            sleep(due(bytes).saturating_sub(began.elapsed()));
        }
        std::io::Result::Ok(())
    })?;
    let bytes = writer.bytes();
    let mut file = writer.finish()?;
    file.flush()?;
    file.sync_all()?;
    Ok(bytes)
}

/// When as many bytes may be written, from the beginning on.
fn due(bytes: u64) -> Duration {
    // The first second's worth is free: small files are written at once.
    Duration::from_millis(bytes.saturating_sub(BYTES_PER_S_MAX).saturating_mul(1_000) / BYTES_PER_S_MAX)
}
