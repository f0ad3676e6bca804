//! The data directory of `apihub up`: who may use it, where its parts lie, what a later start must find again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};

/// Held for as long as `apihub up` runs; the lock ends with the process, however it ends.
pub struct DataDir {
    path: PathBuf,
    /// Where servers of another user and unix sockets live; inside `path` where that is possible.
    servers: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Opens or makes the directory (mode 0755 if Postgres must run as another user, else 0700) and locks it.
    pub fn open(path: &Path) -> anyhow::Result<DataDir> {
        let is_root = rustix::process::geteuid().is_root();
        let mode = if is_root { 0o755 } else { 0o700 };
        let context = || format!("cannot use the data directory {}", path.display());
        DirBuilder::new().recursive(true).mode(mode).create(path).with_context(context)?;
        let path = path.canonicalize().with_context(context)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| anyhow::anyhow!("another `apihub up` is using {}", path.display()))?;
        let servers = servers_dir(&path, is_root)?;
        Ok(DataDir { path, servers, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn postgres(&self) -> PathBuf {
        self.servers.join("postgres")
    }

    pub fn redis(&self) -> PathBuf {
        self.servers.join("redis")
    }

    pub fn feed_socket(&self) -> PathBuf {
        self.servers.join("feed.sock")
    }

    /// A secret of this installation: made at the first start, found again at every later one.
    pub fn secret(&self, name: &str, make: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<String> {
        let path = self.path.join("secrets").join(name);
        if let Ok(secret) = fs::read_to_string(&path)
            && !secret.trim().is_empty()
        {
            return Ok(secret.trim().to_owned());
        }
        let secret = make()?;
        self.write_private(&path, &secret)?;
        Ok(secret)
    }

    /// Writes a file of mode 0600 below the data directory, whole or not at all.
    pub fn write_private(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        let context = || format!("cannot write {}", path.display());
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).with_context(context)?;
        }
        let temporary = path.with_extension("new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(context)?;
        fs::rename(&temporary, path).with_context(context)
    }
}

/// Unix socket paths are short, and root's Postgres belongs to another user, who must be able to walk there.
fn servers_dir(path: &Path, is_root: bool) -> anyhow::Result<PathBuf> {
    let fits = path.as_os_str().len() <= servers::SOCKET_PATH_BYTES_MAX - "/postgres".len();
    let reachable = !is_root || servers::is_reachable_by_others(&path.join("postgres"));
    if fits && reachable {
        return Ok(path.to_owned());
    }
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    let base = if is_root { PathBuf::from("/var/lib") } else { std::env::temp_dir() };
    let elsewhere = base.join(format!("apihub-{:016x}", hasher.finish()));
    let mode = if is_root { 0o755 } else { 0o700 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(&elsewhere)
        .with_context(|| format!("cannot make {}", elsewhere.display()))?;
    tracing::warn!(path = %elsewhere.display(), "Postgres, Redis and sockets are kept here: the data directory's path is too long or closed to other users");
    Ok(elsewhere)
}
