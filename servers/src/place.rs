//! Where a server's files may lie: a folder that its own user can reach, a socket path that the kernel accepts.

use std::fs::{DirBuilder, Metadata};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use crate::ServerFault;

/// The kernel's limit is 107; Postgres and Redis append a name of their own.
pub const SOCKET_PATH_BYTES_MAX: usize = 85;

/// Whether a process of another user can walk to `path` (each ancestor has its search bit for others).
pub fn is_reachable_by_others(path: &Path) -> bool {
    let searchable = |metadata: Metadata| metadata.permissions().mode() & 0o001 != 0;
    path.ancestors().skip(1).filter(|dir| dir.exists()).all(|dir| dir.metadata().is_ok_and(searchable))
}

/// Makes a folder of mode 0700 that belongs to `owner` (uid, gid), or to us.
pub(crate) fn private_dir(path: &Path, owner: Option<(u32, u32)>) -> Result<(), ServerFault> {
    let fault = |error: std::io::Error| ServerFault::Directory { path: path.to_owned(), reason: error.to_string() };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fault)?;
    if let Some((uid, gid)) = owner {
        chown(path, Some(uid), Some(gid)).map_err(fault)?;
    }
    let mode = path.metadata().map_err(fault)?.mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(fault)?;
    }
    Ok(())
}
