//! The layers around routes that misbehave.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use tower::ServiceExt as _;

use super::with_layers;
use crate::testing::App;

#[allow(clippy::panic)]
async fn panics() {
    panic!("the secret of the house");
}

async fn ask(app: &App, path: &str) -> (u16, serde_json::Value, axum::http::HeaderMap) {
    let routes = Router::new().route("/panics", get(panics)).route("/hangs", get(std::future::pending::<()>));
    let router = with_layers(routes, app.state.clone());
    let response = router.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 65_536).await.unwrap();
    (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap(), parts.headers)
}

#[tokio::test]
async fn a_panic_is_a_500_that_tells_nothing() {
    let app = App::start().await;
    let (status, problem, headers) = ask(&app, "/panics").await;
    assert_eq!((status, problem["code"].as_str()), (500, Some("internal_error")));
    assert!(!problem.to_string().contains("secret"));
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers["x-request-id"].to_str().unwrap(), problem["request_id"]);
    assert!(app.state.metrics.render().unwrap().contains("control_plane_http_panics_total 1"));
}

#[tokio::test]
async fn a_handler_that_hangs_is_given_up_with_503() {
    let mut app = App::start().await;
    let mut settings = (*app.state.settings).clone();
    settings.rest.request_timeout = Duration::from_millis(50);
    app.state.settings = std::sync::Arc::new(settings);
    let (status, problem, headers) = ask(&app, "/hangs").await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("timeout")));
    assert!(headers.contains_key("retry-after"));
}
