//! Who this gateway is: an id that lives in its data directory, so that a restart is the same node, and a boot id that is new
//! for each process.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use uuid::Uuid;

/// The file within the data directory.
const FILE: &str = "node-id";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub node_id: Uuid,
    pub node_name: String,
    pub boot_id: Uuid,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityFault {
    #[error("{0} holds no UUID; remove it to make this a new node")]
    NotAnId(String),
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
}

impl Identity {
    /// Reads the node's id, or makes one at the first start. Blocks on the disk.
    pub fn read_or_make(data_dir: &Path, node_name: &str) -> Result<Identity, IdentityFault> {
        let path = data_dir.join(FILE);
        let shown = path.display().to_string();
        let io = |error| IdentityFault::Io { path: shown.clone(), error };
        let node_id = match std::fs::read_to_string(&path) {
            Ok(text) => Uuid::parse_str(text.trim()).map_err(|_| IdentityFault::NotAnId(shown.clone()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(&path).map_err(io)?,
            Err(error) => return Err(io(error)),
        };
        Ok(Identity { node_id, node_name: node_name.to_owned(), boot_id: Uuid::now_v7() })
    }
}

/// Written whole before it gets its name, so that a crash leaves no half id.
fn make(path: &Path) -> std::io::Result<Uuid> {
    let id = Uuid::now_v7();
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    Ok(id)
}
