//! Organizations, seen by members and nobody else.

use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::testing::App;

#[tokio::test]
async fn a_user_owns_only_so_many_organizations() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let client = app.state.store.connection().await.unwrap();
    let sql = "WITH made AS (INSERT INTO organizations (id, slug, name)
                   SELECT gen_random_uuid(), 'many-' || n, 'Many' FROM generate_series(2, 100) n RETURNING id)
               INSERT INTO organization_members (organization_id, user_id, role) SELECT id, $1, 'owner' FROM made";
    assert_eq!(client.execute(sql, &[&ann.user_id]).await.unwrap(), 99);
    let body = json!({"slug": "one-more", "name": "One more"});
    let refused = ann.post("/v1/organizations", body).await.expect_problem(409, "invalid_state");
    assert!(refused.json["detail"].as_str().unwrap().contains("at most 100"), "{}", refused.text);
}

#[tokio::test]
async fn an_organization_is_made_shown_changed_and_listed() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let body = json!({"slug": "acme", "name": "Acme", "time_zone": "Europe/Berlin", "currency": "EUR"});
    let made = ann.post("/v1/organizations", body).await.expect(StatusCode::CREATED);
    let path = made.header("location").to_owned();
    let shown = ann.get(&path).await.expect(StatusCode::OK);
    assert_eq!(shown.json, made.json);
    let change = async |tag: &str, body| ann.with(&[("if-match", tag)], Method::PATCH, &path, Some(body)).await;
    let changed = change(shown.header("etag"), json!({"name": "Acme Ltd"})).await.expect(StatusCode::OK);
    assert_eq!((changed.json["name"].as_str(), changed.json["currency"].as_str()), (Some("Acme Ltd"), Some("EUR")));
    change(shown.header("etag"), json!({"name": "Late"})).await.expect_problem(412, "precondition_failed");
    let listed = ann.get("/v1/organizations").await.expect(StatusCode::OK);
    let slugs: Vec<_> =
        listed.json["data"].as_array().unwrap().iter().map(|one| one["slug"].as_str().unwrap()).collect();
    assert_eq!(slugs, ["ann", "acme"]);
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    for n in 0..6 {
        ann.organization(&format!("org-{n}")).await;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = ann.get(&format!("/v1/organizations?limit=3{cursor}")).await.expect(StatusCode::OK);
        let rows = page.json["data"].as_array().unwrap();
        seen.extend(rows.iter().map(|one| one["slug"].as_str().unwrap().to_owned()));
        match page.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
        assert_eq!(rows.len(), 3);
    }
    assert_eq!(seen, ["ann", "org-0", "org-1", "org-2", "org-3", "org-4", "org-5"]);
}

#[tokio::test]
async fn to_strangers_an_organization_does_not_exist() {
    let app = App::start().await;
    let (ann, eve) = (app.user("ann").await, app.user("eve").await);
    let path = format!("/v1/organizations/{}", ann.organization_id);
    eve.get(&path).await.expect_problem(404, "not_found");
    eve.patch(&path, json!({"name": "Mine"})).await.expect_problem(404, "not_found");
    eve.get(&format!("{path}/members")).await.expect_problem(404, "not_found");
    eve.post(&format!("{path}/members"), json!({"email": eve.email, "role": "owner"}))
        .await
        .expect_problem(404, "not_found");
    eve.get(&format!("{path}/audit-log")).await.expect_problem(404, "not_found");
    eve.delete(&format!("{path}/members/{}", ann.user_id)).await.expect_problem(404, "not_found");
    let nothing = eve.get(&format!("/v1/organizations/{}", uuid::Uuid::now_v7())).await;
    assert_eq!(nothing.json["detail"], eve.get(&path).await.json["detail"], "both read alike");
}

#[tokio::test]
async fn a_taken_or_reserved_slug_and_an_unknown_zone_are_named() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    ann.organization("acme").await;
    let create = async |body| ann.post("/v1/organizations", body).await;
    let taken = create(json!({"slug": "acme", "name": "A"})).await.expect_problem(409, "already_exists");
    assert_eq!(taken.pointers(), ["/slug"]);
    let reserved = create(json!({"slug": "admin", "name": "A"})).await.expect_problem(422, "validation_failed");
    assert_eq!(reserved.pointers(), ["/slug"]);
    let zone = create(json!({"slug": "a1", "name": "A", "time_zone": "Europe/Atlantis"})).await;
    assert_eq!(zone.expect_problem(422, "validation_failed").pointers(), ["/time_zone"]);
    let path = format!("/v1/organizations/{}", ann.organization_id);
    let renamed = ann.patch(&path, json!({"slug": "acme"})).await.expect_problem(409, "already_exists");
    assert_eq!(renamed.pointers(), ["/slug"]);
}

#[tokio::test]
async fn a_suspended_organization_can_be_seen_and_not_changed() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let id = ann.organization_id;
    let suspend = app.state.store.run_tx("test", |tx| {
        Box::pin(async move {
            tx.execute_cached("UPDATE organizations SET status = 'suspended' WHERE id = $1", &[&id]).await
        })
    });
    let _: u64 = suspend.await.map_err(|error: crate::store::StoreError| error).unwrap();
    let path = format!("/v1/organizations/{id}");
    assert_eq!(ann.get(&path).await.expect(StatusCode::OK).json["status"], "suspended");
    ann.patch(&path, json!({"name": "X"})).await.expect_problem(403, "organization_suspended");
}

#[tokio::test]
async fn only_what_gateways_know_of_an_organization_becomes_a_revision() {
    let app = App::start().await;
    let ann = app.user("ann").await;
    let path = format!("/v1/organizations/{}", ann.organization_id);
    let changes = async || {
        let count = app.state.store.read("test", |tx| {
            Box::pin(async move { tx.query_one_cached("SELECT count(*) FROM config_changes", &[]).await })
        });
        count.await.map_err(|error: crate::store::StoreError| error).unwrap().get::<_, i64>(0)
    };
    let before = changes().await;
    ann.patch(&path, json!({"name": "Ann Ltd", "currency": "EUR", "slug": "ann"})).await.expect(StatusCode::OK);
    assert_eq!(changes().await, before);
    ann.patch(&path, json!({"time_zone": "Asia/Tokyo"})).await.expect(StatusCode::OK);
    assert_eq!(changes().await, before + 1, "periods end by it");
    ann.patch(&path, json!({"slug": "anna"})).await.expect(StatusCode::OK);
    assert_eq!(changes().await, before + 2);
}
