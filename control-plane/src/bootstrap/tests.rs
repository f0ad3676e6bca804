//! The first operator.

use settings::Secret;

use super::{BootstrapError, ensure_admin, issue_token};
use crate::testing::{App, PASSWORD};

#[tokio::test]
async fn the_first_operator_is_made_once_and_can_sign_in() {
    let app = App::start().await;
    let first = ensure_admin(&app.state.store, "root@example.com", &Secret::new(PASSWORD)).await.unwrap();
    assert!(first.is_new);
    let again = ensure_admin(&app.state.store, "Root@example.com", &Secret::new("quite another phrase")).await.unwrap();
    assert_eq!((again.user_id, again.is_new), (first.user_id, false));
    let root = app.nobody().sign_in("root@example.com", PASSWORD).await;
    assert_eq!(root.get("/v1/users/me").await.json["is_admin"], true);
}

#[tokio::test]
async fn a_user_who_is_there_becomes_an_operator_and_keeps_his_password() {
    let app = App::start().await;
    let ann = app.admin("ann").await;
    assert_eq!(ann.get("/v1/users/me").await.json["is_admin"], true);
    app.nobody().sign_in(&ann.email, PASSWORD).await;
}

#[tokio::test]
async fn a_weak_password_makes_no_operator() {
    let app = App::start().await;
    let error = ensure_admin(&app.state.store, "root@example.com", &Secret::new("short")).await.unwrap_err();
    assert!(matches!(error, BootstrapError::Password(_)), "{error}");
}

#[tokio::test]
async fn an_issued_token_speaks_for_the_operator_and_ends() {
    let app = App::start().await;
    let admin = ensure_admin(&app.state.store, "root@example.com", &Secret::new(PASSWORD)).await.unwrap();
    let issue = async |seconds: i64| {
        let lifetime = jiff::SignedDuration::from_secs(seconds);
        issue_token(&app.state.store, admin.user_id, "seed", lifetime).await.unwrap()
    };
    let root = app.nobody().bearer(issue(60).await.expose());
    assert_eq!(root.get("/v1/users/me").await.json["is_admin"], true);
    root.organization("demo").await;
    let ended = app.nobody().bearer(issue(-60).await.expose());
    ended.get("/v1/users/me").await.expect_problem(401, "unauthenticated");
}
