//! Health, with Postgres there and away.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;

use crate::publish::book::Book;
use crate::testing::{App, empty_database};

#[tokio::test]
async fn a_migrated_database_is_ready_and_the_summary_names_the_parts() {
    let app = App::start().await;
    let nobody = app.nobody();
    assert_eq!(nobody.get("/livez").await.expect(StatusCode::OK).json["status"], "alive");
    let ready = nobody.get("/readyz").await.expect(StatusCode::OK);
    assert_eq!(ready.json["database"]["schema_version"], crate::migrate::head());
    assert_eq!(ready.json["usage"]["state"], "off");
    let summary = nobody.get("/healthz").await.expect(StatusCode::OK);
    assert_eq!(summary.json["status"], "ready");
    assert_eq!(summary.json["version"], env!("CARGO_PKG_VERSION"));
    assert!(summary.json["parts"]["feed"]["revision"].is_number(), "{}", summary.text);
}

#[tokio::test]
async fn a_database_without_the_schema_is_unready_and_the_process_alive() {
    let app = App::start_on(empty_database().await, "").await;
    app.nobody().get("/livez").await.expect(StatusCode::OK);
    let unready = app.nobody().get("/readyz").await.expect(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(unready.json["status"], "unready");
    assert_eq!(app.nobody().get("/healthz").await.expect(StatusCode::OK).json["status"], "unready");
}

#[tokio::test]
async fn a_control_plane_that_never_built_a_snapshot_is_not_ready() {
    let app = App::start().await;
    let book = Arc::new(Book::default());
    app.state.readiness.watch(Arc::clone(&book));
    let unready = app.nobody().get("/readyz").await.expect(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(unready.json["snapshot"]["state"], "not_built");
    book.note_look();
    let built = Duration::from_secs(10);
    let ready = async {
        // What was found is believed for a second.
        while app.nobody().get("/readyz").await.status != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(built, ready).await.unwrap();
}

#[tokio::test]
async fn redis_away_is_degraded_and_still_ready() {
    let app = App::start_with("[usage]\nplain_redis_url = \"redis://127.0.0.1:1\"\n").await;
    let ready = app.nobody().get("/readyz").await.expect(StatusCode::OK);
    assert_eq!(ready.json["usage"]["state"], "degraded");
    assert_eq!(ready.json["limits"]["state"], "degraded", "it is the same one");
    assert_eq!(app.nobody().get("/healthz").await.json["status"], "degraded");
}

#[tokio::test]
async fn the_redis_of_limits_is_told_apart_from_that_of_usage() {
    let dir = tempfile::Builder::new().prefix("rd").tempdir_in("/tmp").unwrap();
    let redis = servers::PrivateRedis::start(dir.path(), false).unwrap();
    let usage = format!("[usage]\nplain_redis_url = \"{}\"\n", redis.url());
    let app = App::start_with(&format!("{usage}[limits]\nredis_urls = [\"redis://127.0.0.1:1\"]\n")).await;
    let health = app.nobody().get("/healthz").await.json;
    assert_eq!(health["status"], "degraded", "{health}");
    assert_eq!(
        (&health["parts"]["usage"]["state"], &health["parts"]["limits"]["state"]),
        (&"up".into(), &"degraded".into())
    );
    let app = App::start_with(&usage).await;
    assert_eq!(app.nobody().get("/healthz").await.json["parts"]["limits"]["state"], "up");
}

#[tokio::test]
async fn metrics_are_named_and_carry_no_path_nor_id() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    ann.get(&format!("/v1/organizations/{}", ann.organization_id)).await.expect(StatusCode::OK);
    ann.get("/secret-path-of-a-stranger").await.expect_problem(404, "not_found");
    let text = app.nobody().get("/metrics").await.expect(StatusCode::OK).text;
    assert!(text.contains(
        "control_plane_http_requests_total{method=\"GET\",route=\"/v1/organizations/{id}\",status=\"200\"} 1"
    ));
    assert!(text.contains("control_plane_http_problems_total{code=\"not_found\"} 1"));
    assert!(text.contains("control_plane_store_duration_seconds"));
    assert!(!text.contains("secret-path") && !text.contains(&ann.organization_id.to_string()));
    let named = |line: &str| line.starts_with('#') || line.starts_with("control_plane_");
    assert!(text.lines().all(named), "{text}");
}
