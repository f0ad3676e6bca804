//! The files of a snapshot on disk, by name, and how they take each other's place. Reads none of them.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::MODE;

/// The name of the last good snapshot in a gateway's data directory.
pub const SNAPSHOT_FILE: &str = "snapshot";

#[derive(Debug)]
pub(super) struct Names {
    path: PathBuf,
}

impl Names {
    pub(super) fn of(path: PathBuf) -> Names {
        Names { path }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.path.clone()
    }

    pub(super) fn log(&self) -> PathBuf {
        self.beside("log")
    }

    pub(super) fn previous(&self) -> PathBuf {
        self.beside("previous")
    }

    pub(super) fn previous_log(&self) -> PathBuf {
        self.beside("previous.log")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.beside("lock")
    }

    /// This process' own, while it writes.
    pub(super) fn temporary(&self) -> PathBuf {
        self.own("tmp")
    }

    pub(super) fn temporary_log(&self) -> PathBuf {
        self.own("log-tmp")
    }

    /// Bytes of the file and of its log; 0 where there is none.
    pub(super) fn lengths(&self) -> (u64, u64) {
        let length = |path: PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
        (length(self.file()), length(self.log()))
    }

    /// Of the disk, for whoever may write here.
    pub(super) fn free_bytes(&self) -> std::io::Result<u64> {
        let directory = self.path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let disk = rustix::fs::statvfs(directory)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    pub(super) fn open_lock(&self) -> std::io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(self.lock())
    }

    /// The file and its log get second names, in place of those that had them.
    pub(super) fn keep_as_previous(&self) -> std::io::Result<()> {
        self.link(&self.file(), &self.previous())?;
        match self.link(&self.log(), &self.previous_log()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => match fs::remove_file(self.previous_log()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            linked => linked,
        }
    }

    pub(super) fn sync_directory(&self) -> std::io::Result<()> {
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Removes what saves of processes that are gone have left behind. An upgrade's other process keeps its own.
    pub(super) fn sweep(&self) {
        let (Some(directory), Some(name)) = (self.path.parent(), self.path.file_name()) else { return };
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if is_left_over(&entry.file_name(), name) {
                // Another process may have been faster.
                drop(fs::remove_file(entry.path()));
            }
        }
    }

    fn link(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        let link = self.own("link");
        // What a crash may have left.
        drop(fs::remove_file(&link));
        fs::hard_link(from, &link)?;
        fs::rename(&link, to)
    }

    fn own(&self, kind: &str) -> PathBuf {
        self.beside(&format!("{}.{kind}", std::process::id()))
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".");
        name.push(suffix);
        PathBuf::from(name)
    }
}

fn is_left_over(file: &OsStr, name: &OsStr) -> bool {
    let rest = file.to_str().zip(name.to_str()).and_then(|(file, name)| file.strip_prefix(name));
    rest.and_then(|rest| rest.strip_prefix('.')?.split_once('.')).is_some_and(|(id, kind)| {
        matches!(kind, "tmp" | "log-tmp" | "link") && id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists()
    })
}
