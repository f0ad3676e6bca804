//! One throw-away Postgres for all tests of a process: it lives until the process ends, however that ends, and the next
//! process removes what is left of it on disk.

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use crate::{Durability, PrivatePostgres, ServerFault};

/// Where the clusters lie: reachable for Postgres's own user, and short enough for a socket's path.
const PLACE: &str = "/tmp";

/// A running cluster that nobody has to stop.
#[derive(Clone, Debug)]
pub struct ThrowAwayPostgres {
    base: String,
}

impl ThrowAwayPostgres {
    /// Starts a cluster in `/tmp/<prefix>-<process>`. Blocks for about a second.
    pub fn start(prefix: &str) -> Result<ThrowAwayPostgres, ServerFault> {
        remove_leftovers(prefix);
        let dir = PathBuf::from(PLACE).join(format!("{prefix}-{}", std::process::id()));
        let fault = |error: std::io::Error| ServerFault::Directory { path: dir.clone(), reason: error.to_string() };
        std::fs::create_dir_all(&dir).map_err(fault)?;
        let (started, wait) = mpsc::channel();
        // A server ends with the thread that started it; this one never ends by itself.
        std::thread::spawn(move || {
            let postgres = PrivatePostgres::start(&dir.join("postgres"), Durability::ThrowAway);
            let is_up = postgres.is_ok();
            let _listened_to =
                started.send(postgres.as_ref().map(|postgres| postgres.url("")).map_err(ToString::to_string));
            if is_up {
                loop {
                    std::thread::park();
                }
            }
        });
        let gone = |reason: String| ServerFault::Start { program: "Postgres", reason };
        let base = wait.recv().map_err(|_| gone("its thread ended".to_owned()))?.map_err(gone)?;
        Ok(ThrowAwayPostgres { base })
    }

    /// A connection URL for a database of this cluster.
    pub fn url(&self, database: &str) -> String {
        format!("{}{database}", self.base)
    }
}

/// Of processes that are no more.
fn remove_leftovers(prefix: &str) {
    for entry in std::fs::read_dir(PLACE).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
        if pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            let _another_process_was_faster = std::fs::remove_dir_all(entry.path());
        }
    }
}
