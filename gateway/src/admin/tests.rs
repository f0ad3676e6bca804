//! The pages of the operator's port, and what makes a gateway ready.

use snapshot::token::Token;
use uuid::Uuid;

use super::*;
use crate::metrics::status::Served;

fn admin() -> Admin {
    let identity = Identity { node_id: Uuid::nil(), node_name: "gw-1".to_owned(), boot_id: Uuid::nil() };
    Admin::new(Arc::new(Metrics::new("test").unwrap()), identity)
}

fn get(admin: &Admin, path: &str) -> (u16, String) {
    let Page(status, _, body) = admin.page(&Method::GET, path);
    (status.as_u16(), String::from_utf8(body).unwrap())
}

fn serve(admin: &Admin) {
    let token = Token { epoch: Uuid::nil(), revision: 7 };
    admin.metrics.status.set_served(Served { token, source: Source::Disk }, unix_ms());
}

#[test]
fn alive_from_the_start_but_ready_only_with_a_snapshot_and_open_and_until_draining() {
    let admin = admin();
    assert_eq!(get(&admin, "/livez").0, 200);
    assert_eq!(get(&admin, "/readyz"), (503, "not ready: no snapshot yet\n".to_owned()));
    serve(&admin);
    assert_eq!(get(&admin, "/readyz"), (503, "not ready: not yet up to date\n".to_owned()));
    admin.metrics.status.set_open();
    assert_eq!(get(&admin, "/readyz").0, 200);
    admin.metrics.status.set_draining();
    assert_eq!(get(&admin, "/readyz"), (503, "not ready: draining\n".to_owned()));
}

#[test]
fn a_part_that_is_away_is_degraded_not_unready() {
    let admin = admin();
    serve(&admin);
    admin.metrics.status.set_open();
    admin.metrics.status.set_feed(PartState::Up);
    admin.metrics.status.set_redis(PartState::Down);
    assert_eq!(get(&admin, "/readyz").0, 200);
    let health: serde_json::Value = serde_json::from_str(&get(&admin, "/healthz").1).unwrap();
    assert_eq!(health["status"], "degraded");
    assert_eq!(health["parts"]["redis"], "down");
    assert_eq!(health["snapshot"]["revision"], 7);
    assert_eq!(health["snapshot"]["saved_revision"], serde_json::Value::Null);
    assert_eq!(health["node"]["name"], "gw-1");
    admin.metrics.status.set_saved(Token { epoch: Uuid::max(), revision: 7 });
    assert_eq!(admin.metrics.status.saved_revision(), None, "revisions of two epochs cannot be compared");
    admin.metrics.status.set_saved(Token { epoch: Uuid::nil(), revision: 6 });
    admin.metrics.status.set_redis(PartState::Up);
    let health: serde_json::Value = serde_json::from_str(&get(&admin, "/healthz").1).unwrap();
    assert_eq!(health["status"], "ok");
    assert_eq!(health["snapshot"]["saved_revision"], 6);
}

#[test]
fn the_redis_of_limits_is_told_apart_and_is_degraded_where_it_answers_nothing() {
    let admin = admin();
    serve(&admin);
    admin.metrics.status.set_open();
    admin.metrics.status.set_feed(PartState::Up);
    let told = || {
        let health: serde_json::Value = serde_json::from_str(&get(&admin, "/healthz").1).unwrap();
        (health["status"].clone(), health["parts"]["limits_redis"].clone())
    };
    admin.metrics.status.set_limits_redis(PartState::Off);
    assert_eq!(told(), ("ok".into(), "off".into()));
    admin.metrics.status.set_limits_redis(PartState::Up);
    assert_eq!(told(), ("ok".into(), "up".into()));
    assert!(get(&admin, "/metrics").1.contains("gateway_part_up{part=\"limits_redis\"} 1"));
    // Connected, and silent.
    admin.metrics.limits.lanes_down.inc();
    assert_eq!(told(), ("degraded".into(), "down".into()));
    admin.metrics.limits.lanes_down.dec();
    admin.metrics.status.set_limits_redis(PartState::Down);
    assert_eq!(told(), ("degraded".into(), "down".into()));
    assert_eq!(get(&admin, "/readyz").0, 200);
}

#[test]
fn metrics_are_shown_and_everything_else_is_refused() {
    let admin = admin();
    let (status, text) = get(&admin, "/metrics");
    assert_eq!(status, 200);
    assert!(text.contains("gateway_build_info"));
    assert_eq!(get(&admin, "/").0, 404);
    let Page(status, _, _) = admin.page(&Method::POST, "/livez");
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}
