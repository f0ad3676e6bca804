//! Months move on, and ends come, once each and with a change that gateways see, whoever else does it at the same time.

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::json;

use super::{move_periods, remove_expired};
use crate::api::fixture::{Shop, add_plan, ask_database, publish};
use crate::domain::period::BillingPeriod;
use crate::testing::App;

async fn sql(app: &App, text: &str) {
    app.state.store.connection().await.unwrap().batch_execute(text).await.unwrap();
}

async fn keep_house(app: &App) {
    move_periods(&app.state.store).await.unwrap();
    remove_expired(&app.state.store).await.unwrap();
}

const TWO_MONTHS_BACK: &str = "UPDATE subscriptions SET period_start = period_start - interval '2 months',
    period_end = period_end - interval '2 months', period_id = 202001";

#[tokio::test]
async fn an_ended_period_becomes_the_month_that_runs_in_the_publishers_time_zone() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    // Months go on in the zone in which they began; this publisher has none yet.
    sql(&app, "UPDATE organizations SET time_zone = 'Asia/Tokyo' WHERE slug = 'petra'; DELETE FROM billing_months")
        .await;
    sql(&app, TWO_MONTHS_BACK).await;
    let changes = "SELECT count(*) FROM config_changes WHERE entity = 'subscription'";
    let before = ask_database(&app, changes).await;
    tokio::join!(keep_house(&app), keep_house(&app));
    keep_house(&app).await;
    let month = BillingPeriod::around(Timestamp::now(), "Asia/Tokyo").unwrap();
    let got = shop.consumer.get(&shop.subscription_path("")).await.expect(StatusCode::OK).json;
    assert_eq!((got["period_id"].clone(), got["status"].as_str()), (json!(month.id), Some("active")));
    assert_eq!(got["period_start"], json!(month.starts_at.to_string()));
    assert_eq!(got["period_end"], json!(month.ends_at.to_string()));
    assert_eq!(ask_database(&app, changes).await, before + 1, "moved once, by one of them");
    assert_eq!(ask_database(&app, "SELECT count(*) FROM audit_log WHERE action = 'subscription.advance'").await, 1);
}

#[tokio::test]
async fn a_subscription_whose_end_has_come_is_over_and_its_period_stays() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    sql(&app, TWO_MONTHS_BACK).await;
    sql(&app, "UPDATE subscriptions SET cancel_at = period_end").await;
    let path = shop.subscription_path("/cancel");
    shop.consumer.post(&path, json!({})).await.expect_problem(409, "invalid_state");
    keep_house(&app).await;
    keep_house(&app).await;
    let got = shop.consumer.get(&shop.subscription_path("")).await.expect(StatusCode::OK).json;
    assert_eq!((got["status"].as_str(), got["period_id"].clone()), (Some("cancelled"), json!(202_001)));
    assert_eq!(got["cancelled_at"], got["cancel_at"]);
    assert_eq!(ask_database(&app, "SELECT count(*) FROM audit_log WHERE action = 'subscription.end'").await, 1);
}

#[tokio::test]
async fn a_cancellation_after_the_month_ended_waits_for_the_end_of_this_one() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    sql(&app, TWO_MONTHS_BACK).await;
    // Before any housekeeping came by.
    let later = shop.consumer.post(&shop.subscription_path("/cancel"), json!({})).await.expect(StatusCode::OK).json;
    let month = BillingPeriod::around(Timestamp::now(), "UTC").unwrap();
    assert_eq!(
        (later["status"].as_str(), later["cancel_at"].clone()),
        (Some("active"), json!(month.ends_at.to_string()))
    );
    assert_eq!(later["period_id"], json!(month.id));
}

#[tokio::test]
async fn whoever_comes_first_after_the_months_end_moves_the_subscription_whole() {
    for step in ["cancel", "resume", "plan"] {
        let app = App::start().await;
        let shop = Shop::open(&app).await;
        let terms = json!({"price": "5", "policy": {"algorithm": "fixed_window"}});
        let mini = add_plan(&shop.publisher, shop.product, "mini", terms).await;
        publish(&shop.publisher, shop.product).await;
        // It suits the bucket that is held, and not the window that comes.
        let bursty = json!({"requests_per_minute": 6_000, "burst_limit": 600});
        shop.publisher.put(&shop.subscription_path("/override"), bursty).await.expect(StatusCode::OK);
        shop.consumer.post(&shop.subscription_path("/plan"), json!({"plan_id": mini})).await.expect(StatusCode::OK);
        if step == "resume" {
            shop.publisher.post(&shop.subscription_path("/suspend"), json!({})).await.expect(StatusCode::OK);
        }
        sql(&app, TWO_MONTHS_BACK).await;
        let plans = "SELECT count(*) FROM config_changes WHERE entity = 'plan'";
        let before = ask_database(&app, plans).await;
        let body = if step == "plan" { json!({"plan_id": mini}) } else { json!({}) };
        let by = if step == "resume" { &shop.publisher } else { &shop.consumer };
        let got = by.post(&shop.subscription_path(&format!("/{step}")), body).await.expect(StatusCode::OK).json;
        let month = BillingPeriod::around(Timestamp::now(), "UTC").unwrap();
        assert_eq!((&got["status"], &got["period_id"]), (&json!("active"), &json!(month.id)), "{step}");
        let now = (&got["plan_id"], &got["next_plan_id"], &got["override"]);
        assert_eq!(now, (&json!(mini), &json!(null), &json!(null)), "{step}: the plan that waited is held, and suits");
        assert!(ask_database(&app, plans).await >= before + 2, "{step}: gateways learn of both plans");
        let moved = "SELECT count(*) FROM audit_log WHERE action = 'subscription.advance'";
        assert_eq!(ask_database(&app, moved).await, 1, "{step}");
        keep_house(&app).await;
        assert_eq!(ask_database(&app, moved).await, 1, "{step}: the job finds nothing left");
    }
}

#[tokio::test]
async fn a_time_zone_that_nobody_knows_stops_its_own_subscription_alone() {
    let app = App::start().await;
    let shop = Shop::open(&app).await;
    sql(&app, TWO_MONTHS_BACK).await;
    // Postgres takes this for a zone three hours west of Greenwich.
    sql(&app, "UPDATE organizations SET time_zone = 'MARS3' WHERE slug = 'petra'; DELETE FROM billing_months").await;
    keep_house(&app).await;
    let got = shop.consumer.get(&shop.subscription_path("")).await.expect(StatusCode::OK).json;
    assert_eq!(got["period_id"], json!(202_001));
}

#[tokio::test]
async fn what_has_ended_or_expired_is_removed_in_batches_until_nothing_is_left() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    let many = format!(
        "INSERT INTO idempotency_keys (user_id, idempotency_key, method, path, request_digest, created_at, expires_at)
         SELECT '{0}', n::text, 'POST', '/', sha256(''), now() - interval '1 day', now() - interval '1 second' FROM generate_series(1, 2500) n;
         INSERT INTO sessions (id, user_id, token_digest, created_at, expires_at)
         SELECT gen_random_uuid(), '{0}', sha256(n::text::bytea), now() - interval '9 days', now() - interval '8 days' FROM generate_series(1, 2500) n",
        petra.user_id
    );
    sql(&app, &many).await;
    keep_house(&app).await;
    assert_eq!(ask_database(&app, "SELECT count(*) FROM idempotency_keys").await, 0);
    assert_eq!(ask_database(&app, "SELECT count(*) FROM sessions").await, 1, "the one that is used");
}
