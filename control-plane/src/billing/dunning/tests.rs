//! Who is marked as past due has not paid, whatever happens at the same time.

use serde_json::json;

use super::*;
use crate::api::fixture::{Shop, ask_database, hold_pair, since_last_month, until_blocked};
use crate::billing::issue;
use crate::testing::App;

/// An invoice is due when it is issued.
const AT_ONCE: &str = "[billing]\ndue_days = 0\n";
const PAST_DUE: &str = "SELECT count(*) FROM subscriptions WHERE status = 'past_due' AND past_due_since IS NOT NULL";

#[tokio::test]
async fn who_pays_while_he_is_looked_at_is_not_marked() {
    let app = App::start_with(AT_ONCE).await;
    let shop = Shop::with_plan(&app, json!({"price": "30"})).await;
    since_last_month(&app, &shop).await;
    let (store, billing) = (&app.state.store, &app.state.settings.billing);
    assert_eq!(issue::run(store, billing, None).await.unwrap().issued, 1);

    let payer = hold_pair(&app, &shop).await;
    payer.batch_execute("UPDATE invoices SET status = 'paid', paid_at = now()").await.unwrap();
    let pay = async {
        until_blocked(&app.state.store, 1).await;
        payer.batch_execute("COMMIT").await.unwrap();
    };
    let (marked, ()) = tokio::join!(run(store, billing, None), pay);
    assert_eq!(marked.unwrap(), Done::default());
    assert_eq!(ask_database(&app, PAST_DUE).await, 0);
}

#[tokio::test]
async fn who_has_not_paid_is_marked_once_by_however_many_control_planes() {
    let app = App::start_with(AT_ONCE).await;
    let shop = Shop::with_plan(&app, json!({"price": "30"})).await;
    let other = Shop::between(&app, "paul", "cora", json!({"price": "30"})).await;
    for shop in [&shop, &other] {
        since_last_month(&app, shop).await;
    }
    let (store, billing) = (&app.state.store, &app.state.settings.billing);
    assert_eq!(issue::run(store, billing, None).await.unwrap().issued, 2);
    assert_eq!(run(store, billing, Some(other.publisher_organization)).await.unwrap().count, 1, "one publisher's");
    let runs = tokio::join!(run(store, billing, None), run(store, billing, None));
    assert_eq!(runs.0.unwrap().count + runs.1.unwrap().count, 1);
    assert_eq!(ask_database(&app, PAST_DUE).await, 2);
    assert_eq!(ask_database(&app, "SELECT count(*) FROM billing_events WHERE kind = 'subscription.past_due'").await, 2);
}
