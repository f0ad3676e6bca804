//! One throw-away Postgres for all tests of the process, with a migrated template; each test clones it.

use control_plane::postgres::Link;
use servers::{PrivatePostgres, ThrowAwayPostgres};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::wait::eventually;

const TEMPLATE: &str = "template_apihub";

static SHARED: OnceCell<ThrowAwayPostgres> = OnceCell::const_new();

/// The URL of a migrated database of its own.
pub async fn fresh_database() -> String {
    let shared = SHARED.get_or_init(start).await;
    let name = format!("t{}", Uuid::now_v7().simple());
    let clone = format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}");
    eventually("the template is free to be cloned", || async {
        try_execute(&shared.url("postgres"), &clone).await.ok()
    })
    .await;
    shared.url(&name)
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
    control_plane::migrate::run(&Link::read(&url, None).unwrap()).await.unwrap();
    url
}

async fn start() -> ThrowAwayPostgres {
    let cluster = tokio::task::spawn_blocking(|| ThrowAwayPostgres::start("apihub-e2e").unwrap()).await.unwrap();
    try_execute(&cluster.url("postgres"), &format!("CREATE DATABASE {TEMPLATE}")).await.unwrap();
    control_plane::migrate::run(&Link::read(&cluster.url(TEMPLATE), None).unwrap()).await.unwrap();
    cluster
}
