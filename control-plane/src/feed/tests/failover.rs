//! A server that lacks the last commits takes over and gives their revisions out a second time: nobody takes those for the first.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use servers::{Durability, PrivatePostgres};
use tempfile::TempDir;

use super::*;
use crate::postgres::Link;
use crate::publish::builder::testing_rows::store_of;

/// A Postgres of one test, and its standby that gets nothing any more.
struct Pair {
    primary: PrivatePostgres,
    url: String,
    dir: TempDir,
}

impl Pair {
    async fn start() -> Pair {
        let dir = tempfile::Builder::new().prefix("apihub-pair").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let primary = PrivatePostgres::start(&dir.path().join("pg"), Durability::ThrowAway).unwrap();
        let url = primary.url("postgres");
        crate::migrate::run(&Link::read(&url, None).unwrap()).await.unwrap();
        Pair { primary, url, dir }
    }

    async fn rows(&self) -> Rows {
        Rows::of(self.url.clone(), store_of(&self.url).await).await
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("pg/data")
    }

    fn standby(&self) -> std::path::PathBuf {
        self.dir.path().join("standby")
    }

    /// Up to here the standby has everything.
    fn copy_to_standby(&mut self) {
        self.primary.stop();
        let copied = Command::new("cp").arg("-a").args([self.data(), self.standby()]).status().unwrap();
        assert!(copied.success());
        self.primary.restart().unwrap();
    }

    /// At the address of the primary, which is gone.
    fn promote_standby(&mut self) {
        self.primary.stop();
        fs::remove_dir_all(self.data()).unwrap();
        fs::rename(self.standby(), self.data()).unwrap();
        let settings = self.data().join("postgresql.auto.conf");
        let text = fs::read_to_string(&settings).unwrap() + "restore_command = 'false'\nhot_standby = off\n";
        write_owned(&self.data(), &settings, &text);
        write_owned(&self.data(), &self.data().join("recovery.signal"), "");
        self.primary.restart().unwrap();
    }
}

fn write_owned(data: &Path, path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    let owner = fs::metadata(data).unwrap();
    chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
}

async fn timeline(rows: &Rows) -> String {
    let sql = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)";
    rows.client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_after_a_failover_that_lost_revisions_is_revoked_at_the_gateways_that_had_them() {
    let mut pair = Pair::start().await;
    let mut plane = Plane::start_on(pair.rows().await, tcp()).await;
    let user = "INSERT INTO users (id, email, display_name) VALUES ($1, 'a@example.com', 'Ann')";
    plane.rows.sql(user, &[&plane.rows.user]).await;
    let acme = plane.rows.organization("acme").await;
    let shop = plane.rows.product(acme, "shop").await;
    let plan = plane.rows.plan(shop, "basic").await;
    let key = plane.rows.key(plane.rows.subscription(shop, plan, acme).await).await;
    let kept = plane.newest().await;
    let mut one = plane.gateway("one").await;
    one.take_up_to(kept).await;
    pair.copy_to_standby();

    plane.rows = pair.rows().await;
    // Of this one the standby knows nothing.
    let mut two = plane.gateway("two").await;
    for slug in ["lost-one", "lost-two"] {
        plane.rows.organization(slug).await;
    }
    let lost = plane.newest().await;
    for gateway in [&mut one, &mut two] {
        gateway.take_up_to(lost).await;
        gateway.ack().await;
    }
    assert_eq!(plane.revisions.served(lost, PATIENCE).await.unwrap(), Served::default());
    let before = (one.token.unwrap(), timeline(&plane.rows).await);
    assert!(before.0.revision >= kept + 2);

    pair.promote_standby();
    plane.rows = pair.rows().await;
    assert_ne!(timeline(&plane.rows).await, before.1, "the standby went its own way");
    plane.rows.change("key", key, "UPDATE api_keys SET status = 'revoked', revoked_at = now() WHERE id = $1").await;
    let revoked = plane.newest().await;
    let served = plane.revisions.served(revoked, Duration::ZERO).await.unwrap();
    assert!(served.missing.iter().any(|lag| lag.name == "one"), "it has not heard of it: {served:?}");
    plane.rows.organization("one-more").await;
    let newest = plane.newest().await;

    for gateway in [&mut one, &mut two] {
        while gateway.token.is_some_and(|token| token.epoch == before.0.epoch) {
            gateway.take().await.unwrap();
        }
        gateway.take_up_to(newest).await;
        assert!(!gateway.records.contains_key(&EntityRef { kind: EntityKind::Key, id: key }));
        gateway.ack().await;
    }
    assert_eq!(plane.revisions.served(revoked, PATIENCE).await.unwrap(), Served::default());
    let nodes = plane.rows.client.query_one("SELECT count(*) FROM nodes WHERE state = 'active'", &[]).await.unwrap();
    assert_eq!(nodes.get::<_, i64>(0), 2, "a gateway that the standby did not know is known again");
    while fleet_max(&two) < 2 {
        two.take().await.unwrap();
    }
}
