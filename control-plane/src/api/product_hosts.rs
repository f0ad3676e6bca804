//! A product's own hosts: claimed, proved over HTTP, given up. A claim keeps nobody else away; a proof does, and takes effect at
//! the gateways at once. Refuses the installation's own names.

use std::time::Instant;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use snapshot::key::random_digits;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::access::{self, Granted, seen};
use crate::api::auth::{self, Caller};
use crate::api::extract::{DigestedJson, Path};
use crate::api::headers::{IdempotencyHeader, PreferHeader};
use crate::api::idempotency::{IdempotencyKey, Once};
use crate::api::problem::{ApiError, Code};
use crate::api::products as product_api;
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish};
use crate::changes::{self, EntityKind};
use crate::domain::accounts::Role;
use crate::domain::fault::Flaw;
use crate::domain::host::{CHALLENGE_DIGITS, CHALLENGE_PATH, HOSTS_PER_PRODUCT_MAX, HostName};
use crate::host_proof;
use crate::settings::Settings;
use crate::store::product_hosts::{self as rows, HostRow};
use crate::store::{StoreError, Transaction};

#[cfg(test)]
mod tests;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(claim_host, list_hosts))
        .routes(routes!(verify_host))
        .routes(routes!(release_host))
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewHost {
    #[schema(example = "api.example.com")]
    pub host: String,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProductHost {
    pub product_id: Uuid,
    pub host: String,
    /// What `http://<host>/.well-known/apihub-challenge` must answer, as plain text.
    pub challenge: String,
    #[schema(example = "/.well-known/apihub-challenge")]
    pub challenge_path: &'static str,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub verified_at: Option<jiff::Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProductHosts {
    pub data: Vec<ProductHost>,
}

#[utoipa::path(post, path = "/v1/products/{id}/hosts", tag = "product hosts", request_body = NewHost,
    params(("id" = Uuid, Path, description = "The product"), IdempotencyHeader), responses((status = 201, body = ProductHost)))]
async fn claim_host(
    State(state): State<AppState>,
    caller: Caller,
    Path(product): Path<Uuid>,
    key: IdempotencyKey,
    prefer: Prefer,
    new: DigestedJson<NewHost>,
) -> Result<Response, ApiError> {
    let granted = access::to_product(&state, &caller, product, Role::Developer).await?;
    let once = key.claim(&caller, new.digest);
    let host = parse_host(&new.body.host, &state.settings).map_err(|flaw| ApiError::field("/host", flaw))?;
    let challenge = random_digits(CHALLENGE_DIGITS).map_err(|error| ApiError::internal(error.to_string()))?;
    let (once, granted, host, challenge) = (&once, &granted, &host, &challenge);
    let written =
        state.store.run_tx("claim_host", |tx| Box::pin(claim(tx, granted, product, once, host, challenge))).await?;
    finish(&state, prefer, written).await
}

/// The names under which this installation itself is reached belong to nobody.
fn parse_host(text: &str, settings: &Settings) -> Result<HostName, Flaw> {
    let host = HostName::parse(text)?;
    let own = [Some(&settings.gateway_url), settings.rest.public_url.as_ref()];
    let is_own = own.into_iter().flatten().any(|url| url.host_str() == Some(host.as_str()));
    if is_own {
        return Err(Flaw::new("this is the installation's own name").mend("claim a name of yours"));
    }
    Ok(host)
}

async fn claim(
    tx: &Transaction<'_>,
    granted: &Granted,
    product: Uuid,
    once: &Once,
    host: &HostName,
    challenge: &str,
) -> Result<Written, ApiError> {
    if let Some(replayed) = once.replay(tx).await? {
        return Ok(replayed);
    }
    product_api::not_retired(&product_api::lock(tx, granted, product).await?)?;
    let claims = rows::list(tx, granted.organization, product).await?.len();
    if i64::try_from(claims).unwrap_or(i64::MAX) >= HOSTS_PER_PRODUCT_MAX {
        return Err(ApiError::new(Code::InvalidState, format!("A product has at most {HOSTS_PER_PRODUCT_MAX} hosts.")));
    }
    let row = rows::insert(tx, granted.organization, product, host.as_str(), challenge).await.map_err(taken)?;
    let shown = ProductHost::from(row);
    granted.log(tx, "product_host.claim", ("product", product), None, seen(&shown)?).await?;
    let written = Written::created(format!("/v1/products/{product}/hosts"), &shown)?;
    once.record(tx, &written).await?;
    Ok(written)
}

#[utoipa::path(get, path = "/v1/products/{id}/hosts", tag = "product hosts",
    params(("id" = Uuid, Path, description = "The product")), responses((status = 200, body = ProductHosts)))]
async fn list_hosts(
    State(state): State<AppState>,
    caller: Caller,
    Path(product): Path<Uuid>,
) -> Result<axum::Json<ProductHosts>, ApiError> {
    let granted = access::to_product(&state, &caller, product, Role::Viewer).await?;
    let organization = granted.organization;
    let found = state.store.read("list_hosts", |tx| Box::pin(rows::list(tx, organization, product))).await?;
    Ok(axum::Json(ProductHosts { data: found.into_iter().map(ProductHost::from).collect() }))
}

#[utoipa::path(post, path = "/v1/products/{id}/hosts/{host}/verify", tag = "product hosts",
    params(("id" = Uuid, Path, description = "The product"), ("host" = String, Path), PreferHeader),
    description = "Fetches the challenge from the host itself. Once it is there, the gateways serve the product under this name. Ten proofs at once, then one each half minute.",
    responses((status = 200, body = ProductHost), (status = 202, body = ProductHost)))]
async fn verify_host(
    State(state): State<AppState>,
    caller: Caller,
    Path((product, host)): Path<(Uuid, String)>,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let granted = access::to_product(&state, &caller, product, Role::Developer).await?;
    let throttled = state.throttles.attempt_host_proof(caller.user_id, Instant::now());
    throttled.map_err(|throttled| auth::refuse(&state, throttled))?;
    let (organization, name) = (granted.organization, &host);
    let claimed = state
        .store
        .read("find_host", |tx| Box::pin(rows::get(tx, organization, product, name)))
        .await?
        .ok_or_else(|| ApiError::not_found("host"))?;
    // Outside of any transaction: somebody else's server may take its time.
    host_proof::fetch(&claimed.host, &claimed.challenge, &state.settings.upstream).await.map_err(unproved)?;
    let granted = &granted;
    let written = state.store.run_tx("verify_host", |tx| Box::pin(verify(tx, granted, product, name))).await?;
    finish(&state, prefer, written).await
}

async fn verify(tx: &Transaction<'_>, granted: &Granted, product: Uuid, host: &str) -> Result<Written, ApiError> {
    product_api::lock(tx, granted, product).await?;
    let row = rows::verify(tx, granted.organization, product, host).await.map_err(taken)?;
    let shown = ProductHost::from(row.ok_or_else(|| ApiError::not_found("host"))?);
    granted.log(tx, "product_host.verify", ("product", product), None, seen(&shown)?).await?;
    let change = changes::record(tx, EntityKind::Product, product).await?;
    Ok(Written::ok(&shown)?.change(change))
}

#[utoipa::path(delete, path = "/v1/products/{id}/hosts/{host}", tag = "product hosts",
    params(("id" = Uuid, Path, description = "The product"), ("host" = String, Path), PreferHeader),
    responses((status = 204), (status = 202)))]
async fn release_host(
    State(state): State<AppState>,
    caller: Caller,
    Path((product, host)): Path<(Uuid, String)>,
    prefer: Prefer,
) -> Result<Response, ApiError> {
    let granted = access::to_product(&state, &caller, product, Role::Developer).await?;
    let (granted, host) = (&granted, &host);
    let written = state.store.run_tx("release_host", |tx| Box::pin(release(tx, granted, product, host))).await?;
    finish(&state, prefer, written).await
}

async fn release(tx: &Transaction<'_>, granted: &Granted, product: Uuid, host: &str) -> Result<Written, ApiError> {
    product_api::lock(tx, granted, product).await?;
    if !rows::delete(tx, granted.organization, product, host).await? {
        return Err(ApiError::not_found("host"));
    }
    let before = serde_json::json!({"host": host});
    granted.log(tx, "product_host.release", ("product", product), Some(before), None).await?;
    let change = changes::record(tx, EntityKind::Product, product).await?;
    Ok(Written::no_content().change(change))
}

fn taken(error: StoreError) -> ApiError {
    let detail = match error.constraint() {
        Some("product_hosts_verified_key") => "Another product has proved this host.",
        Some("product_hosts_pkey") => "The product claims this host already.",
        _ => return error.into(),
    };
    ApiError::new(Code::AlreadyExists, detail)
}

fn unproved(fault: host_proof::ProofFault) -> ApiError {
    let mend = format!("let http://<host>{CHALLENGE_PATH} answer 200 with the challenge as its whole body");
    ApiError::field("/host", Flaw::new(fault.to_string()).mend(mend))
}

impl From<HostRow> for ProductHost {
    fn from(row: HostRow) -> ProductHost {
        ProductHost {
            product_id: row.product_id,
            host: row.host,
            challenge: row.challenge,
            challenge_path: CHALLENGE_PATH,
            verified_at: row.verified_at,
            created_at: row.created_at,
        }
    }
}
