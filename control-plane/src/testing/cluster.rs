//! A Postgres for the tests of this process, with a migrated template of which each test gets a clone. Refuses to touch a
//! server that somebody else runs.

use std::sync::atomic::{AtomicU32, Ordering};

use servers::ThrowAwayPostgres;
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;

use crate::postgres::Link;

const TEMPLATE: &str = "apihub_template";

static CLUSTER: OnceCell<ThrowAwayPostgres> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A database of one test.
pub(crate) struct TestDatabase {
    pub(crate) url: String,
}

impl TestDatabase {
    pub(crate) fn link(&self) -> Link {
        Link::read(&self.url, None).unwrap()
    }
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
    let cluster = CLUSTER.get_or_init(start).await;
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    execute(&cluster.url("postgres"), &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
    TestDatabase { url: cluster.url(&name) }
}

async fn execute(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let task = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    task.await.unwrap().unwrap();
}

async fn start() -> ThrowAwayPostgres {
    let cluster = tokio::task::spawn_blocking(|| ThrowAwayPostgres::start("apihub-pg").unwrap()).await.unwrap();
    execute(&cluster.url("postgres"), &format!("CREATE DATABASE {TEMPLATE}")).await;
    let template = Link::read(&cluster.url(TEMPLATE), None).unwrap();
    crate::migrate::run(&template).await.unwrap();
    cluster
}
