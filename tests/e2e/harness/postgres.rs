//! One throw-away Postgres for all tests of the process, with a migrated template; each test clones it.

use std::path::PathBuf;
use std::sync::OnceLock;

use servers::{Durability, PrivatePostgres};
use uuid::Uuid;

use super::wait::eventually;

struct Shared {
    admin_url: String,
    urls: Box<dyn Fn(&str) -> String + Send + Sync>,
}

static SHARED: OnceLock<Shared> = OnceLock::new();

/// The URL of a migrated database of its own.
pub async fn fresh_database() -> String {
    let shared = tokio::task::spawn_blocking(|| SHARED.get_or_init(start)).await.unwrap();
    let name = format!("t{}", Uuid::now_v7().simple());
    let clone = format!("CREATE DATABASE {name} TEMPLATE template_apihub");
    eventually("the template is free to be cloned", || async { try_execute(&shared.admin_url, &clone).await.ok() })
        .await;
    (shared.urls)(&name)
}

async fn try_execute(url: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let result = client.batch_execute(sql).await;
    drop(client);
    let _ = connection.await;
    result
}

/// Makes and migrates a database in a cluster of the test's own.
pub async fn migrate_new(postgres: &PrivatePostgres, name: &str) -> String {
    try_execute(&postgres.url("postgres"), &format!("CREATE DATABASE {name}")).await.unwrap();
    let url = postgres.url(name);
    control_plane::migrate::run(&url).await.unwrap();
    url
}

/// The cluster belongs to a thread that never ends, since it ends with the thread that started it.
fn start() -> Shared {
    let (started, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let dir = PathBuf::from(format!("/tmp/apihub-e2e-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        remove_leftovers();
        let postgres = PrivatePostgres::start(&dir.join("postgres"), Durability::ThrowAway).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(migrate_new(&postgres, "template_apihub"));
        // Ends the last connection: a template that somebody uses cannot be cloned.
        drop(runtime);
        let base = postgres.url("");
        started.send(base).unwrap();
        loop {
            std::thread::park();
        }
    });
    let base: String = wait.recv().unwrap();
    Shared { admin_url: format!("{base}postgres"), urls: Box::new(move |name| format!("{base}{name}")) }
}

/// Clusters of test processes that were killed before.
fn remove_leftovers() {
    for entry in std::fs::read_dir("/tmp").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix("apihub-e2e-") else { continue };
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
