//! One file of a spool: made with room of its own, appended to frame by frame. Refuses to leave half a frame behind.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FallocateFlags, fallocate};
use uuid::Uuid;

use crate::usage::frame::start_frame;

/// Bytes of one file, reserved when it is made.
pub(super) const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
/// A file takes batches no longer than this, so that it can be let go of a day later.
const SEGMENT_TIME: Duration = Duration::from_secs(3_600);
const MODE: u32 = 0o600;

pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) file: Arc<File>,
    bytes: u64,
    /// The last batch in it.
    pub(super) last: Option<u64>,
    pub(super) modified: SystemTime,
    /// None: nothing more is appended.
    opened: Option<Instant>,
}

impl Segment {
    /// Errors: no room.
    pub(super) fn create(dir: &Path, number: u32, node: Uuid, epoch: Uuid) -> io::Result<Segment> {
        let path = path(dir, number);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(MODE).open(&path)?;
        let start = start_frame(node, epoch);
        // Its length stays what was written, so that a reader sees the end.
        let prepared = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, SEGMENT_BYTES)
            .map_err(io::Error::from)
            .and_then(|()| file.write_all_at(&start, 0));
        if let Err(error) = prepared {
            drop(fs::remove_file(&path));
            return Err(error);
        }
        let bytes = u64::try_from(start.len()).unwrap_or(u64::MAX);
        let opened = Some(Instant::now());
        Ok(Segment { number, file: Arc::new(file), bytes, last: None, modified: SystemTime::now(), opened })
    }

    /// One that is there already and is not appended to.
    pub(super) fn existing(number: u32, file: File, last: Option<u64>) -> io::Result<Segment> {
        give_back_room(&file);
        let metadata = file.metadata()?;
        let modified = metadata.modified()?;
        Ok(Segment { number, file: Arc::new(file), bytes: metadata.len(), last, modified, opened: None })
    }

    /// It was made ahead, and is used from now on.
    pub(super) fn opened(self) -> Segment {
        Segment { opened: Some(Instant::now()), ..self }
    }

    /// Nothing more comes.
    pub(super) fn close(&mut self) {
        self.opened = None;
        give_back_room(&self.file);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let is_young = self.opened.is_some_and(|opened| opened.elapsed() < SEGMENT_TIME);
        is_young && (self.last.is_none() || self.bytes.saturating_add(bytes) <= SEGMENT_BYTES)
    }

    /// Answers where the frame ends. Errors: nothing was appended.
    pub(super) fn append(&mut self, frame: &[u8]) -> io::Result<u64> {
        if let Err(error) = self.file.write_all_at(frame, self.bytes) {
            // A part that cannot be taken back is not whole and is overlooked by whoever reads; nothing may follow it.
            if self.file.set_len(self.bytes).is_err() {
                self.opened = None;
            }
            return Err(error);
        }
        self.bytes = self.bytes.saturating_add(u64::try_from(frame.len()).unwrap_or(u64::MAX));
        Ok(self.bytes)
    }

    /// A batch was appended. Answers with the file, to be synced.
    pub(super) fn note(&mut self, sequence: u64) -> Arc<File> {
        self.last = Some(sequence);
        self.modified = SystemTime::now();
        self.file.clone()
    }

    pub(super) fn remove(&self, dir: &Path) -> io::Result<()> {
        fs::remove_file(path(dir, self.number))
    }
}

/// What was reserved behind the file's end: else a day of short files takes many times what they hold. Its age stays what it was.
fn give_back_room(file: &File) {
    let give_back = |metadata: Metadata| {
        file.set_len(metadata.len())?;
        file.set_modified(metadata.modified()?)
    };
    // Where it fails, only room is lost, or it is kept longer.
    drop(file.metadata().and_then(give_back));
}

pub(super) fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:010}.seg"))
}

/// Where a file is written before it takes the place of others.
pub(super) fn unfinished_path(dir: &Path) -> PathBuf {
    dir.join("compacted.tmp")
}

/// The numbers of all files, in order.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number: Option<u32> =
            name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|name| name.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn read_at(file: &File, offset: u64, bytes: u32) -> io::Result<Vec<u8>> {
    let mut read = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut read, offset)?;
    Ok(read)
}
