//! Health: is the process alive, is it ready to serve, and in which state are its parts. Refuses to ask Postgres more often
//! than once a second, however often it is asked itself.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use limits_redis::{Connection, Patience};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::migrate;
use crate::publish::book::Book;
use crate::store::{Store, health};

#[cfg(test)]
mod tests;

/// An answer of Postgres is believed for so long.
const CHECK_AGE_MAX: Duration = Duration::from_secs(1);
/// Postgres must answer a health check within this time.
const CHECK_WAIT_MAX: Duration = Duration::from_secs(2);
/// The builder looks every second; beyond this age it does not get through.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(60);
/// Reaching Redis, likewise.
const REDIS_WAIT_MAX: Duration = Duration::from_secs(1);

/// The state of the parts, kept for a second.
#[derive(Clone, Default)]
pub struct Readiness {
    last: Arc<Mutex<Option<(Instant, Parts)>>>,
    /// What the builder makes; none in a process that serves REST alone.
    book: Arc<OnceLock<Arc<Book>>>,
}

#[derive(Clone, Debug)]
struct Parts {
    database: Result<i32, String>,
    /// `None` when no Redis is configured.
    redis: Option<Result<(), String>>,
    /// Of the Redis in which the gateways count limits, likewise.
    limits_redis: Option<Result<(), String>>,
    /// Of a database that is ready.
    feed: Option<Value>,
    snapshot: Snapshot,
}

/// What the gateways would be given.
#[derive(Clone, Copy, Debug)]
enum Snapshot {
    Off,
    /// Never yet: a gateway that connects here waits.
    NotBuilt,
    /// As the database was so long ago.
    Built(Duration),
}

impl Parts {
    fn is_ready(&self) -> bool {
        self.has_schema() && !matches!(self.snapshot, Snapshot::NotBuilt)
    }

    fn has_schema(&self) -> bool {
        matches!(self.database, Ok(version) if version >= migrate::head())
    }

    /// An old snapshot is still served, so it is told and does not make unready.
    fn snapshot_json(&self) -> Value {
        match self.snapshot {
            Snapshot::Off => json!({"state": "off"}),
            Snapshot::NotBuilt => json!({"state": "not_built"}),
            Snapshot::Built(age) if age > SNAPSHOT_AGE_MAX => json!({"state": "stale", "age_seconds": age.as_secs()}),
            Snapshot::Built(age) => json!({"state": "up", "age_seconds": age.as_secs()}),
        }
    }

    fn database_json(&self) -> Value {
        match &self.database {
            Ok(version) if *version >= migrate::head() => json!({"state": "up", "schema_version": version}),
            Ok(version) => json!({
                "state": "behind", "schema_version": version, "needed_version": migrate::head(),
                "mend": "run `apihub migrate`",
            }),
            Err(reason) => json!({"state": "down", "reason": reason}),
        }
    }

    /// Redis away is degraded, not unready: REST and the feed work without it.
    fn usage_json(&self) -> Value {
        redis_json(&self.redis)
    }

    /// Without it the gateways fall back to what each policy says, and lost quota counts are not put back.
    fn limits_json(&self) -> Value {
        redis_json(&self.limits_redis)
    }

    fn is_degraded(&self) -> bool {
        [&self.redis, &self.limits_redis].into_iter().any(|redis| matches!(redis, Some(Err(_))))
    }
}

fn redis_json(redis: &Option<Result<(), String>>) -> Value {
    match redis {
        Some(Ok(())) => json!({"state": "up"}),
        Some(Err(reason)) => json!({"state": "degraded", "reason": reason}),
        None => json!({"state": "off", "reason": "no Redis is configured"}),
    }
}

pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
}

async fn livez() -> impl IntoResponse {
    axum::Json(json!({"status": "alive"}))
}

async fn readyz(State(state): State<AppState>) -> Response {
    let parts = state.readiness.parts(&state).await;
    let is_ready = parts.is_ready();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": if is_ready { "ready" } else { "unready" },
        "database": parts.database_json(),
        "usage": parts.usage_json(),
        "limits": parts.limits_json(),
        "snapshot": parts.snapshot_json(),
    });
    (status, axum::Json(body)).into_response()
}

/// Always 200: it says what is, and leaves the judgement to the reader.
async fn healthz(State(state): State<AppState>) -> Response {
    let parts = state.readiness.parts(&state).await;
    let status = match (parts.is_ready(), parts.is_degraded()) {
        (false, _) => "unready",
        (true, true) => "degraded",
        (true, false) => "ready",
    };
    let body = json!({
        "status": status,
        "version": env!("CARGO_PKG_VERSION"),
        "parts": {
            "database": parts.database_json(), "usage": parts.usage_json(), "limits": parts.limits_json(),
            "snapshot": parts.snapshot_json(), "feed": parts.feed,
        },
    });
    axum::Json(body).into_response()
}

async fn metrics(State(state): State<AppState>) -> Result<Response, ApiError> {
    let text = state.metrics.render().map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

impl Readiness {
    /// From now on a snapshot that was never built is a reason not to be ready.
    pub fn watch(&self, book: Arc<Book>) {
        // A process has one book; a second would be of a test.
        let _first = self.book.set(book);
    }

    async fn parts(&self, state: &AppState) -> Parts {
        // Whoever comes while a check runs waits for its result.
        let mut last = self.last.lock().await;
        if let Some((_, parts)) = last.as_ref().filter(|(at, _)| at.elapsed() < CHECK_AGE_MAX) {
            return parts.clone();
        }
        let (database, redis, limits_redis) =
            tokio::join!(check_database(&state.store), check_redis(state), check_limits_redis(state));
        let snapshot =
            self.book.get().map_or(Snapshot::Off, |book| book.age().map_or(Snapshot::NotBuilt, Snapshot::Built));
        let mut parts = Parts { database, redis, limits_redis, feed: None, snapshot };
        if parts.has_schema() {
            parts.feed = feed_json(&state.store).await;
        }
        *last = Some((Instant::now(), parts.clone()));
        parts
    }
}

async fn check_database(store: &Store) -> Result<i32, String> {
    let asked = store.read("find_schema_version", |tx| Box::pin(health::find_schema_version(tx)));
    match tokio::time::timeout(CHECK_WAIT_MAX, asked).await {
        Ok(Ok(version)) => Ok(version),
        // Details may name hosts and users; they are in the log.
        Ok(Err(error)) => {
            tracing::warn!(%error, "the database is not ready");
            Err("the database does not answer".to_owned())
        }
        Err(_) => Err(format!("no answer within {} s", CHECK_WAIT_MAX.as_secs())),
    }
}

async fn check_redis(state: &AppState) -> Option<Result<(), String>> {
    let url = state.settings.usage.redis_url.as_ref()?;
    let ping = async {
        let client = redis::Client::open(url.expose())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async::<String>(&mut connection).await
    };
    Some(match tokio::time::timeout(REDIS_WAIT_MAX, ping).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err("Redis does not answer".to_owned()),
    })
}

async fn check_limits_redis(state: &AppState) -> Option<Result<(), String>> {
    let redis = state.settings.limits_redis.as_ref()?;
    let patience = Patience { connect: REDIS_WAIT_MAX, response: REDIS_WAIT_MAX };
    Some(match Connection::open(redis, patience).await {
        Ok(mut connection) => {
            let answer = connection.query::<String>(&redis::cmd("PING")).await;
            answer.map(|_| ()).map_err(|_| "Redis does not answer".to_owned())
        }
        Err(fault) => {
            tracing::warn!(%fault, "the Redis of limits is not reached");
            Err("Redis does not answer".to_owned())
        }
    })
}

async fn feed_json(store: &Store) -> Option<Value> {
    let feed = store.read("summarize_feed", |tx| Box::pin(health::summarize_feed(tx))).await.ok()?;
    Some(json!({"revision": feed.revision, "nodes": feed.nodes, "lagging_nodes": feed.lagging_nodes}))
}
