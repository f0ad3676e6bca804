//! Operators see what metering knows, and give up what will never come; nobody else does.

use axum::http::StatusCode;
use serde_json::json;
use uuid::Uuid;

use crate::api::fixture::ask_database;
use crate::testing::App;

async fn sql(app: &App, text: &str) {
    app.state.store.connection().await.unwrap().batch_execute(text).await.unwrap();
}

const EPOCHS: &str = "INSERT INTO ingest_watermarks (node_id, epoch, contiguous_seq, highest_seq, closing_seq, events, first_batch_at, last_batch_at)
    VALUES ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-00000000000a', 4, 9, NULL, 12, now() - interval '3 days', now() - interval '2 days'),
           ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-00000000000b', 4, 4, 4, 12, now() - interval '2 days', now() - interval '2 days'),
           ('00000000-0000-0000-0000-000000000002', '00000000-0000-0000-0000-00000000000c', 4, 4, NULL, 12, now() - interval '1 day', now());
    INSERT INTO ingested_batches (node_id, epoch, seq, events)
    SELECT '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-00000000000a', n, 1 FROM unnest(ARRAY[6, 9]) n";

fn write_off(epoch: char) -> String {
    format!("/v1/metering/nodes/{}/00000000-0000-0000-0000-00000000000{epoch}/write-off", Uuid::from_u128(1))
}

#[tokio::test]
async fn every_epoch_is_listed_with_what_is_missing_of_it() {
    let app = App::start().await;
    let operator = app.admin("olga").await;
    sql(&app, EPOCHS).await;
    let all = operator.get("/v1/metering/nodes").await.expect(StatusCode::OK).json;
    let states: Vec<_> = all["data"].as_array().unwrap().iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["open", "closed", "silent"]);
    let gaps = &all["data"][2]["gaps"];
    assert_eq!(gaps, &json!([{"from": 5, "to": 5}, {"from": 7, "to": 8}]));
    let first = operator.get("/v1/metering/nodes?unfinished=true&limit=1").await.expect(StatusCode::OK).json;
    assert_eq!(first["data"][0]["state"], "open");
    let next = format!("/v1/metering/nodes?unfinished=true&limit=1&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = operator.get(&next).await.expect(StatusCode::OK).json;
    assert_eq!((second["data"][0]["state"].as_str(), second["next_cursor"].as_str()), (Some("silent"), None));
    let of_one = format!("/v1/metering/nodes?node_id={}", Uuid::from_u128(2));
    assert_eq!(operator.get(&of_one).await.json["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_operator_writes_off_what_is_silent_once_with_a_reason_and_in_the_audit_log() {
    let app = App::start().await;
    let operator = app.admin("olga").await;
    sql(&app, EPOCHS).await;
    let reason = json!({"reason": "the disk burnt"});
    let blank = operator.post(&write_off('a'), json!({"reason": " "})).await.expect_problem(422, "validation_failed");
    assert_eq!(blank.pointers(), ["/reason"]);
    let done = operator.post(&write_off('a'), reason.clone()).await.expect(StatusCode::OK).json;
    assert_eq!((&done["state"], &done["write_off_reason"]), (&json!("written_off"), &json!("the disk burnt")));
    operator.post(&write_off('a'), reason.clone()).await.expect_problem(409, "invalid_state");
    operator.post(&write_off('b'), reason.clone()).await.expect_problem(409, "invalid_state");
    operator.post(&write_off('d'), reason.clone()).await.expect_problem(404, "not_found");
    let live = write_off('c').replace(&Uuid::from_u128(1).to_string(), &Uuid::from_u128(2).to_string());
    operator.post(&live, reason).await.expect_problem(409, "invalid_state");
    let noted = "SELECT count(*) FROM audit_log WHERE action = 'metering.write_off' AND actor_user_id IS NOT NULL
        AND after ->> 'write_off_reason' = 'the disk burnt'";
    assert_eq!(ask_database(&app, noted).await, 1);
    let unfinished = operator.get("/v1/metering/nodes?unfinished=true").await.json;
    assert_eq!(unfinished["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_audit_shows_whether_all_adds_up() {
    let app = App::start().await;
    let operator = app.admin("olga").await;
    let fresh = operator.get("/v1/metering/audit").await.expect(StatusCode::OK).json;
    assert_eq!((&fresh["is_equal"], &fresh["days"]), (&json!(true), &json!([])));
    sql(&app, EPOCHS).await;
    crate::metering::audit(&app.state.store).await.unwrap();
    let now = operator.get("/v1/metering/audit").await.expect(StatusCode::OK).json;
    assert_eq!(now["is_equal"], false, "the epochs tell of requests that no day has");
    let totals = &now["totals"];
    let found = ["epochs_differing", "epochs_with_gaps", "missing_batches", "silent_epochs", "open_epochs"]
        .map(|name| totals[name].clone());
    assert_eq!(found, [3, 1, 3, 1, 2].map(|n| json!(n)));
    assert_eq!(now["days"].as_array().unwrap().len(), 3);
    assert_eq!(now["days"][0]["is_equal"], true);
}

#[tokio::test]
async fn nobody_but_an_operator_sees_or_does_any_of_it() {
    let app = App::start().await;
    let petra = app.user("petra").await;
    sql(&app, EPOCHS).await;
    petra.get("/v1/metering/audit").await.expect_problem(403, "forbidden");
    petra.get("/v1/metering/nodes").await.expect_problem(403, "forbidden");
    petra.post(&write_off('a'), json!({"reason": "mine"})).await.expect_problem(403, "forbidden");
    app.nobody().get("/v1/metering/audit").await.expect_problem(401, "unauthenticated");
    let reader = app.admin("olga").await.with_token(&["read"]).await;
    reader.get("/v1/metering/nodes").await.expect_problem(403, "insufficient_scope");
}
