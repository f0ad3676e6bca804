//! Rows for tests of the snapshot and of what carries it, written with their changes as the API writes them, but without it.

use prost::Message;
use settings::Secret;
use snapshot::wire;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::settings::Database;
use crate::store::Store;
use crate::store::changes::{number_changes, prepare_numbering};
use crate::testing::migrated_database;

pub(crate) struct Rows {
    pub(crate) url: String,
    pub(crate) store: Store,
    pub(crate) client: Client,
    pub(crate) user: Uuid,
    _driver: AbortOnDropHandle<Result<(), tokio_postgres::Error>>,
}

pub(crate) async fn store_of(url: &str) -> Store {
    let database = Database { url: Secret::new(url), ca_file: None, pool_size: 40, migrate_at_start: false };
    Store::connect(&database, Metrics::new().unwrap()).await.unwrap()
}

impl Rows {
    pub(crate) async fn start() -> Rows {
        let url = migrated_database().await.url;
        let rows = Rows::of(url.clone(), store_of(&url).await).await;
        let sql = "INSERT INTO users (id, email, display_name) VALUES ($1, 'a@example.com', 'Ann')";
        rows.sql(sql, &[&rows.user]).await;
        rows
    }

    /// Of a database that another has started.
    pub(crate) async fn of(url: String, store: Store) -> Rows {
        let (client, driver) = store.session().await.unwrap();
        Rows { url, store, client, user: Uuid::now_v7(), _driver: AbortOnDropHandle::new(tokio::spawn(driver)) }
    }

    pub(crate) async fn sql(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> u64 {
        self.client.execute(sql, values).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    pub(crate) async fn changed(&self, kind: &str, id: Uuid) {
        self.sql("INSERT INTO config_changes (entity, entity_id) VALUES ($1, $2)", &[&kind, &id]).await;
    }

    /// A statement about one row (`$1`), and its change, in one transaction.
    pub(crate) async fn change(&self, kind: &str, id: Uuid, sql: &str) {
        self.client.batch_execute("BEGIN").await.unwrap();
        self.sql(sql, &[&id]).await;
        self.changed(kind, id).await;
        self.client.batch_execute("COMMIT").await.unwrap();
    }

    /// What the sequencer does; answers the newest revision.
    pub(crate) async fn number(&self) -> u64 {
        let numbering = prepare_numbering(&self.client).await.unwrap();
        number_changes(&self.client, &numbering, 100_000).await.unwrap();
        let row = self.client.query_one("SELECT revision FROM feed_state", &[]).await.unwrap();
        row.get::<_, i64>(0).try_into().unwrap()
    }

    pub(crate) async fn epoch(&self) -> Uuid {
        self.client.query_one("SELECT epoch FROM feed_state", &[]).await.unwrap().get(0)
    }

    pub(crate) async fn organization(&self, slug: &str) -> Uuid {
        let id = Uuid::now_v7();
        let sql = "INSERT INTO organizations (id, slug, name) VALUES ($1, $2, $2)";
        self.sql(sql, &[&id, &slug]).await;
        self.changed("organization", id).await;
        id
    }

    pub(crate) async fn product(&self, organization: Uuid, slug: &str) -> Uuid {
        let id = Uuid::now_v7();
        let sql = "INSERT INTO api_products (id, organization_id, slug, name) VALUES ($1, $2, $3, $3)";
        self.sql(sql, &[&id, &organization, &slug]).await;
        self.release(id, "/things/{id}").await;
        id
    }

    /// Publishes a release with one endpoint of this pattern.
    pub(crate) async fn release(&self, product: Uuid, pattern: &str) {
        let endpoint = wire::Endpoint {
            id: Uuid::now_v7().as_bytes().to_vec(),
            meter_id: 1,
            method: "GET".into(),
            pattern: pattern.into(),
            target: "https://upstream.example/".into(),
            ..Default::default()
        };
        let release =
            wire::Product { endpoints: vec![endpoint], requires: vec!["routes.v1".into()], ..Default::default() };
        self.store_release(product, &release.encode_to_vec()).await;
    }

    pub(crate) async fn store_release(&self, product: Uuid, compiled: &[u8]) {
        let release = Uuid::now_v7();
        self.client.batch_execute("BEGIN").await.unwrap();
        let sql = "INSERT INTO releases (id, product_id, number, compiled, summary, created_by)
            VALUES ($1, $2, (SELECT count(*) + 1 FROM releases WHERE product_id = $2), $3, '{}', $4)";
        self.sql(sql, &[&release, &product, &compiled, &self.user]).await;
        let sql = "UPDATE api_products SET status = 'published', live_release_id = $2 WHERE id = $1";
        self.sql(sql, &[&product, &release]).await;
        self.changed("product", product).await;
        self.client.batch_execute("COMMIT").await.unwrap();
    }

    pub(crate) async fn plan(&self, product: Uuid, slug: &str) -> Uuid {
        let id = Uuid::now_v7();
        self.client.batch_execute("BEGIN").await.unwrap();
        let sql = "INSERT INTO plans (id, product_id, family_id, slug, name, status, price, currency, rate_limit, included_requests)
            VALUES ($1, $2, $1, $3, $3, 'active', 0, 'USD', 60, 1000)";
        self.sql(sql, &[&id, &product, &slug]).await;
        let sql =
            "INSERT INTO rate_limit_policies (id, plan_id, requests_per_minute, burst_limit) VALUES ($1, $1, 60, 6)";
        self.sql(sql, &[&id]).await;
        self.changed("plan", id).await;
        self.client.batch_execute("COMMIT").await.unwrap();
        id
    }

    pub(crate) async fn subscription(&self, product: Uuid, plan: Uuid, consumer: Uuid) -> Uuid {
        let id = Uuid::now_v7();
        self.client.batch_execute("BEGIN").await.unwrap();
        let sql = "INSERT INTO subscriptions
            (id, product_id, plan_id, user_id, organization_id, status, activated_at, period_start, period_end, period_id)
            VALUES ($1, $2, $3, $4, $5, 'active', '2026-11-01', '2026-11-01', '2026-12-01', 202611)";
        self.sql(sql, &[&id, &product, &plan, &self.user, &consumer]).await;
        self.changed("subscription", id).await;
        self.client.batch_execute("COMMIT").await.unwrap();
        id
    }

    pub(crate) async fn key(&self, subscription: Uuid) -> Uuid {
        let id = Uuid::now_v7();
        let digest = [id.as_bytes().as_slice(), id.as_bytes().as_slice()].concat();
        self.client.batch_execute("BEGIN").await.unwrap();
        let sql =
            "INSERT INTO api_keys (id, subscription_id, name, key_digest, prefix, last_four, environment, created_by)
            VALUES ($1, $2, 'key', $3, 'hub_live_', 'abcd', 'live', $4)";
        self.sql(sql, &[&id, &subscription, &digest, &self.user]).await;
        self.changed("key", id).await;
        self.client.batch_execute("COMMIT").await.unwrap();
        id
    }
}
