//! The directory of one process's usage: made whole, locked as long as the process lives, taken over by a successor when it
//! does not. Reads nothing of what is in it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// As the data directory itself: nobody else may read who called what.
const MODE: u32 = 0o700;
const LOCK: &str = "lock";
/// A directory is made under a name that begins like this, and renamed when its lock is held.
const UNFINISHED: &str = ".new-";

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub(super) struct EpochDir {
    pub(super) path: PathBuf,
    pub(super) epoch: Uuid,
    _lock: File,
}

impl EpochDir {
    /// Makes the directory of a new epoch below `root`.
    pub(super) fn create(root: &Path, epoch: Uuid) -> io::Result<EpochDir> {
        DirBuilder::new().recursive(true).mode(MODE).create(root)?;
        let unfinished = root.join(format!("{UNFINISHED}{epoch}"));
        DirBuilder::new().mode(MODE).create(&unfinished)?;
        let lock = File::create(unfinished.join(LOCK))?;
        lock.try_lock()?;
        let path = root.join(epoch.to_string());
        fs::rename(unfinished, &path)?;
        File::open(root)?.sync_all()?;
        Ok(EpochDir { path, epoch, _lock: lock })
    }

    /// All epochs below `root` whose process is gone, each locked by us now. One that cannot be looked at is left for later.
    pub(super) fn ended(root: &Path) -> io::Result<Vec<EpochDir>> {
        let mut ended = Vec::new();
        for entry in fs::read_dir(root)? {
            let Ok(entry) = entry else { continue };
            let path = entry.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let unfinished = name.strip_prefix(UNFINISHED);
            let Ok(epoch) = unfinished.unwrap_or(name).parse::<Uuid>() else { continue };
            let Ok(lock) = File::open(path.join(LOCK)) else { continue };
            if lock.try_lock().is_err() {
                continue;
            }
            if unfinished.is_some() {
                // It holds nothing; what cannot be removed is in nobody's way.
                drop(fs::remove_dir_all(&path));
            } else if path.exists() {
                ended.push(EpochDir { path, epoch, _lock: lock });
            }
        }
        // Version 7: by time.
        ended.sort_by_key(|dir| dir.epoch);
        Ok(ended)
    }

    pub(super) fn ring(&self, number: usize) -> PathBuf {
        self.path.join(format!("{number:04}.ring"))
    }

    /// Nothing in it is needed any more.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }
}
