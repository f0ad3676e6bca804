//! The demo: an administrator, a product before the echo upstream, a plan, a subscription and a key. Made once through
//! REST, as a publisher would; found again at every later start. Touches no table.

use std::path::Path;

use anyhow::Context as _;
use control_plane::postgres::Link;
use control_plane::store::Store;
use serde_json::{Value, json};
use settings::Secret;

use super::data_dir::DataDir;
use super::random_secret;
use super::report::{Demo, UpReport};
use crate::rest::Rest;

const ADMIN_EMAIL: &str = "admin@apihub.local";
/// Seconds that the last step waits until the gateway serves the demo.
const WAIT_S: u32 = 10;

/// Where the demo is made.
pub struct Place<'a> {
    pub dir: &'a DataDir,
    pub database_url: &'a str,
    pub control_plane_url: &'a str,
    pub gateway_url: &'a str,
    pub echo_url: &'a str,
}

/// A private cluster begins without our database; one that was given is expected to have it.
pub async fn ensure_database(database: &Link) -> anyhow::Result<()> {
    use tokio_postgres::error::SqlState;
    let Err(error) = database.connect().await else { return Ok(()) };
    if error.code() != Some(&SqlState::INVALID_CATALOG_NAME) {
        return Err(error).context("cannot connect to Postgres");
    }
    let name = database.name().context("the database URL names no database")?;
    let (client, connection) = database.to_database("postgres").connect().await?;
    let connection = tokio::spawn(connection);
    client.batch_execute(&format!("CREATE DATABASE \"{name}\"")).await?;
    drop(client);
    let _ = connection.await;
    Ok(())
}

/// Makes the demo, or finds that it works already.
pub async fn ensure_demo(place: &Place<'_>) -> anyhow::Result<Demo> {
    let password = place.dir.secret("admin-password", random_secret)?;
    ensure_admin(place.database_url, &password).await?;
    let path = "/demo/echo/hello".to_owned();
    let last = report_of_last_start(place.dir.path());
    let rest = Rest::sign_in(place.control_plane_url, ADMIN_EMAIL, &password).await?;
    let organization = ensure_organization(&rest).await?;
    let product = ensure_product(&rest, &organization, place.echo_url).await?;
    let subscription = ensure_subscription(&rest, &organization, &product).await?;
    if let Some(last) = last
        && is_known(place.gateway_url, &path, &last.demo_key).await
    {
        return Ok(place.demo(last.demo_key, path, password));
    }
    let body = json!({ "name": "demo", "environment": "live" });
    let key = rest.post_and_wait(&format!("/v1/subscriptions/{subscription}/keys"), body, WAIT_S).await?;
    Ok(place.demo(text(&key, "key")?, path, password))
}

async fn ensure_admin(database_url: &str, password: &str) -> anyhow::Result<()> {
    let url = Secret::new(database_url);
    let database = control_plane::settings::Database { url, ca_file: None, pool_size: 1, migrate_at_start: false };
    let store = Store::connect(&database, control_plane::metrics::Metrics::new()?).await?;
    control_plane::bootstrap::ensure_admin(&store, ADMIN_EMAIL, &Secret::new(password)).await?;
    Ok(())
}

impl Place<'_> {
    fn demo(&self, key: String, path: String, admin_password: String) -> Demo {
        let echo_url = self.echo_url.to_owned();
        Demo { key, path, echo_url, admin_email: ADMIN_EMAIL.to_owned(), admin_password }
    }
}

fn report_of_last_start(dir: &Path) -> Option<UpReport> {
    let text = std::fs::read_to_string(dir.join("up.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// Whether the gateway lets the key in, whatever the upstream then does.
async fn is_known(gateway_url: &str, path: &str, key: &str) -> bool {
    let answer = reqwest::Client::new().get(format!("{gateway_url}{path}")).bearer_auth(key).send().await;
    answer.is_ok_and(|answer| !matches!(answer.status().as_u16(), 401 | 403 | 404))
}

async fn ensure_organization(rest: &Rest) -> anyhow::Result<String> {
    if let Some(found) = find(&rest.get("/v1/organizations?limit=100").await?, "demo") {
        return text(&found, "id");
    }
    let made = rest.post("/v1/organizations", json!({ "slug": "demo", "name": "Demo" })).await?;
    text(&made, "id")
}

async fn ensure_product(rest: &Rest, organization: &str, echo_url: &str) -> anyhow::Result<String> {
    let products = format!("/v1/organizations/{organization}/products");
    let product = match find(&rest.get(&format!("{products}?limit=100")).await?, "echo") {
        Some(found) => text(&found, "id")?,
        None => {
            let description = "Answers every request with what it saw of it.";
            let body = json!({ "slug": "echo", "name": "Echo", "description": description });
            text(&rest.post(&products, body).await?, "id")?
        }
    };
    let has_plan = first(&rest.get(&format!("/v1/products/{product}/plans?limit=1")).await?).is_some();
    if !has_plan {
        let body = json!({
            "slug": "free", "name": "Free", "price": "0", "currency": "USD", "rate_limit": 6000,
            "policy": { "algorithm": "token_bucket", "burst_limit": 600 },
        });
        rest.post(&format!("/v1/products/{product}/plans"), body).await?;
    }
    if ensure_endpoint(rest, &product, echo_url).await? || !has_plan {
        rest.post_and_wait(&format!("/v1/products/{product}/publish"), json!({}), WAIT_S).await?;
    }
    Ok(product)
}

/// The echo upstream may have another port than at the last start. Tells whether anything changed.
async fn ensure_endpoint(rest: &Rest, product: &str, echo_url: &str) -> anyhow::Result<bool> {
    let endpoints = rest.get(&format!("/v1/products/{product}/endpoints?limit=100")).await?;
    let target = format!("{echo_url}/{{*path}}");
    let Some(found) = first(&endpoints) else {
        let body = json!({ "method": "*", "path_pattern": "/{*path}", "target_url": target });
        rest.post(&format!("/v1/products/{product}/endpoints"), body).await?;
        return Ok(true);
    };
    if found.get("target_url").and_then(Value::as_str) == Some(target.as_str()) {
        return Ok(false);
    }
    let path = format!("/v1/endpoints/{}", text(&found, "id")?);
    let answer = rest.send(rest.request(reqwest::Method::PATCH, &path).json(&json!({ "target_url": target }))).await?;
    anyhow::ensure!(answer.status.is_success(), "cannot change the demo's endpoint: {}", answer.json);
    Ok(true)
}

async fn ensure_subscription(rest: &Rest, organization: &str, product: &str) -> anyhow::Result<String> {
    let subscriptions = format!("/v1/organizations/{organization}/subscriptions");
    let listed = rest.get(&format!("{subscriptions}?status=active&limit=100")).await?;
    let mine = |item: &&Value| item.get("product_id").and_then(Value::as_str) == Some(product);
    if let Some(found) = items(&listed).find(mine) {
        return text(found, "id");
    }
    let plans = rest.get(&format!("/v1/products/{product}/plans?status=active&limit=1")).await?;
    let plan = text(&first(&plans).context("the demo has no active plan")?, "id")?;
    text(&rest.post(&subscriptions, json!({ "plan_id": plan })).await?, "id")
}

/// What a page lists.
fn items(page: &Value) -> impl Iterator<Item = &Value> {
    page.get("data").and_then(Value::as_array).into_iter().flatten()
}

fn find(page: &Value, slug: &str) -> Option<Value> {
    items(page).find(|item| item.get("slug").and_then(Value::as_str) == Some(slug)).cloned()
}

fn first(page: &Value) -> Option<Value> {
    items(page).next().cloned()
}

fn text(value: &Value, field: &str) -> anyhow::Result<String> {
    value
        .get(field)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("`{field}` is missing in the answer: {value}"))
}
