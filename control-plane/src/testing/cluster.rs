//! A private Postgres for the tests of this process: on a unix socket, without fsync, gone with the process. Refuses to touch
//! a server that somebody else runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;
use tokio_postgres::NoTls;

const TEMPLATE: &str = "apihub_template";
const START_MAX: Duration = Duration::from_secs(60);

static CLUSTER: OnceCell<PathBuf> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A database of one test.
pub(crate) struct TestDatabase {
    pub(crate) url: String,
}

/// At this binary's schema.
pub(crate) async fn migrated_database() -> TestDatabase {
    clone_of(TEMPLATE).await
}

/// Without any table.
pub(crate) async fn empty_database() -> TestDatabase {
    clone_of("template1").await
}

async fn clone_of(template: &str) -> TestDatabase {
    let socket = CLUSTER.get_or_init(start).await;
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    execute(socket, "postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
    TestDatabase { url: url(socket, &name) }
}

fn url(socket: &Path, database: &str) -> String {
    format!("postgres://postgres@localhost/{database}?host={}", socket.display())
}

async fn execute(socket: &Path, database: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(&url(socket, database), NoTls).await.unwrap();
    let task = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    task.await.unwrap().unwrap();
}

// Nobody waits for the server: it outlives every test and ends with the process.
#[allow(clippy::zombie_processes)]
async fn start() -> PathBuf {
    let dir = tempfile::Builder::new().prefix("apihub-pg-").tempdir().unwrap().keep();
    let bin = binaries();
    let as_postgres = is_root();
    if as_postgres {
        assert!(Command::new("chown").arg("postgres").arg(&dir).status().unwrap().success());
    }
    let data = dir.join("data");
    let initdb = format!("{}/initdb -D {} -U postgres -A trust -E UTF8 --locale=C -N", bin.display(), data.display());
    assert!(shell(&initdb, as_postgres).stdout(Stdio::null()).status().unwrap().success(), "initdb");
    // The server ends when this process does: its standard input closes then.
    let script = format!(
        "{bin}/postgres -D {data} -k {dir} -c listen_addresses= -c fsync=off -c synchronous_commit=off \
         -c full_page_writes=off -c max_connections=400 -c shared_buffers=64MB -c autovacuum=off >{dir}/log 2>&1 & \
         pid=$!; cat >/dev/null; kill -INT $pid; wait $pid; rm -rf {dir}",
        bin = bin.display(),
        data = data.display(),
        dir = dir.display()
    );
    let child = shell(&script, as_postgres).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    std::mem::forget(child.stdin);
    wait_for(&dir).await;
    execute(&dir, "postgres", &format!("CREATE DATABASE {TEMPLATE}")).await;
    crate::migrate::run(&url(&dir, TEMPLATE)).await.unwrap();
    dir
}

async fn wait_for(dir: &Path) {
    let started = Instant::now();
    while tokio_postgres::connect(&url(dir, "postgres"), NoTls).await.is_err() {
        let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(started.elapsed() < START_MAX, "Postgres did not start: {log}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn shell(script: &str, as_postgres: bool) -> Command {
    let mut command = if as_postgres { Command::new("runuser") } else { Command::new("sh") };
    if as_postgres {
        command.args(["-u", "postgres", "--", "sh"]);
    }
    command.arg("-c").arg(script).current_dir("/tmp");
    command
}

/// Postgres refuses to run as root.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

fn binaries() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect())
        .unwrap_or_default();
    found.retain(|path| path.join("initdb").exists());
    found.sort();
    found.pop().expect("Postgres is installed, as the README says")
}
