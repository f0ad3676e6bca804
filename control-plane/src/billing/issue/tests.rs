//! Invoices come once, numbered without gaps, when usage is all there, and say why they do not come before.

use axum::http::StatusCode;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::*;
use crate::api::fixture::{
    Shop, add_endpoint, add_plan, ask_database, draft_product, publish, run_sql, since_last_month, subscribe, use_api,
};
use crate::billing::attempts::Done;
use crate::billing::{alerts, job};
use crate::testing::App;

const TERMS: &str = "[billing]\nfee_percent = \"2.5\"\nsimulation_clock = true\n";
const LAST_MONTH: &str = "(SELECT min(usage_from) FROM billing_months)";

async fn issue_all(app: &App) -> Issued {
    run(&app.state.store, &app.state.settings.billing, None).await.unwrap()
}

async fn shop_of_last_month(app: &App) -> Shop {
    let terms =
        json!({"price": "30", "included_requests": 1000, "quota_mode": "soft", "overage_price_per_1000": "2.00"});
    let shop = Shop::with_plan(app, terms).await;
    since_last_month(app, &shop).await;
    use_api(app, shop.subscription, shop.plan, LAST_MONTH, 1_234).await;
    shop
}

async fn invoices_of(shop: &Shop) -> Vec<Value> {
    let list = shop.consumer.get(&shop.invoices_path()).await.expect(StatusCode::OK).json;
    list["data"].as_array().unwrap().clone()
}

/// In cents.
fn cents(amount: &Value) -> Decimal {
    amount.as_str().unwrap().parse::<Decimal>().unwrap() * Decimal::from(100)
}

#[tokio::test]
async fn a_month_that_is_over_is_invoiced_once_however_many_control_planes_do_it() {
    let app = App::start_with(TERMS).await;
    let shop = shop_of_last_month(&app).await;
    let runs = tokio::join!(issue_all(&app), issue_all(&app), issue_all(&app));
    assert_eq!(runs.0.issued + runs.1.issued + runs.2.issued, 1);
    assert_eq!(issue_all(&app).await, Issued::default(), "nothing is left to do");
    let list = invoices_of(&shop).await;
    assert_eq!(list.len(), 1);
    assert_eq!((list[0]["number"].as_str(), list[0]["status"].as_str()), (Some("INV-000001"), Some("issued")));
    assert_eq!(cents(&list[0]["total"]), Decimal::from(3_047), "30.00, and 234 requests at 2.00 a thousand, 0.468");
    assert_eq!(list[0].get("fee"), None, "not the consumer's business");
    let fee = "SELECT (fee * 1000000)::bigint FROM invoices";
    assert_eq!(ask_database(&app, fee).await, 760_000, "2.5 % of 30.47 is 0.76175");
    let sums = "SELECT (sum(amount) * 100)::bigint FROM billing_events WHERE kind = 'invoice.issued'";
    assert_eq!(ask_database(&app, sums).await, 3_047);
    assert_eq!(ask_database(&app, "SELECT count(*) FROM audit_log WHERE action = 'invoice.issue'").await, 1);
}

#[tokio::test]
async fn one_consumer_whose_sum_cannot_be_stored_stops_nobody_elses_bills_and_warnings() {
    let app = App::start_with(TERMS).await;
    let shop = shop_of_last_month(&app).await;
    let other = Shop::between(&app, "paul", "cora", json!({"price": "30"})).await;
    since_last_month(&app, &other).await;
    for shop in [&shop, &other] {
        shop.consumer.put(&shop.budget_path(), json!({"amount": "1"})).await.expect(StatusCode::OK);
    }
    let price = async |price: &str| {
        // Dearer than anything that can be sold; the database keeps it from being changed at all.
        let sql = format!("UPDATE plans SET price = {price} WHERE id = '{}'", shop.plan);
        run_sql(&app, &format!("BEGIN; SET LOCAL session_replication_role = replica; {sql}; COMMIT")).await;
    };
    price("99999999999999.999999").await;
    assert_eq!(issue_all(&app).await, Issued { issued: 1, held_back: 0, failed: 1 });
    assert_eq!((invoices_of(&shop).await.len(), invoices_of(&other).await.len()), (0, 1));
    assert_eq!(issue_all(&app).await, Issued { issued: 0, held_back: 0, failed: 1 }, "the month stays open");
    let warned = alerts::run(&app.state.store).await.unwrap();
    assert_eq!(warned, Done { count: 2, failed: 1 }, "30.00 of 1.00: 85 and 100 per cent");
    let told = job::run_once(&app.state.store, &app.state.settings.billing).await.unwrap_err();
    assert_eq!(told.to_string(), "it failed for 2, whom the log names");

    price("30").await;
    assert_eq!(issue_all(&app).await, Issued { issued: 1, ..Issued::default() });
    assert_eq!(cents(&invoices_of(&shop).await[0]["total"]), Decimal::from(3_047));
    job::run_once(&app.state.store, &app.state.settings.billing).await.unwrap();
}

#[tokio::test]
async fn a_producer_that_has_not_delivered_holds_the_invoice_back_in_plain_sight() {
    let app = App::start_with(TERMS).await;
    let shop = shop_of_last_month(&app).await;
    run_sql(
        &app,
        "INSERT INTO ingest_watermarks (node_id, epoch, low_watermark, first_batch_at)
         SELECT gen_random_uuid(), gen_random_uuid(), min(usage_from), min(usage_from) FROM billing_months",
    )
    .await;
    assert_eq!(issue_all(&app).await, Issued { held_back: 1, ..Issued::default() });
    let draft = invoices_of(&shop).await.remove(0);
    assert_eq!((draft["status"].as_str(), draft["number"].as_str()), (Some("draft"), None));
    assert_eq!(cents(&draft["total"]), Decimal::from(3_047));
    assert!(draft["held_back"][0].as_str().unwrap().contains("has sent everything before"), "{draft}");
    // It comes in after all, with more usage; or an operator writes it off.
    use_api(&app, shop.subscription, shop.plan, LAST_MONTH, 266).await;
    run_sql(&app, "UPDATE ingest_watermarks SET low_watermark = now()").await;
    assert_eq!(issue_all(&app).await.issued, 1);
    let issued = invoices_of(&shop).await.remove(0);
    assert_eq!((issued["id"].clone(), issued["status"].as_str()), (draft["id"].clone(), Some("issued")));
    assert_eq!(cents(&issued["total"]), Decimal::from(3_100));
    assert_eq!(issued["held_back"], json!([]));
}

#[tokio::test]
async fn late_usage_becomes_an_adjustment_on_the_next_invoice_and_only_once() {
    let app = App::start_with(TERMS).await;
    let (shop, admin) = (shop_of_last_month(&app).await, app.admin("root").await);
    assert_eq!(issue_all(&app).await.issued, 1);
    use_api(&app, shop.subscription, shop.plan, LAST_MONTH, 1_000).await;
    let advance = format!("/v1/billing-clocks/{}/advance", shop.publisher_organization);
    for _ in 0..2 {
        admin.post(&advance, json!({})).await.expect(StatusCode::OK);
    }
    let list = invoices_of(&shop).await;
    assert_eq!(list.len(), 3);
    // Together 1,234 requests beyond the included ones: 2.468; 0.47 was billed, so 2.00 is missing.
    let second = format!("/v1/invoices/{}", list[1]["id"].as_str().unwrap());
    let lines = shop.consumer.get(&second).await.json["lines"].clone();
    let adjustments: Vec<&Value> =
        lines.as_array().unwrap().iter().filter(|line| line["kind"] == "adjustment").collect();
    assert_eq!(adjustments.len(), 1, "{lines}");
    assert_eq!(cents(&adjustments[0]["amount"]), Decimal::from(200));
    assert_eq!(adjustments[0]["month"], list[0]["month"]);
    assert_eq!(cents(&list[2]["total"]), Decimal::from(3_000));
}

#[tokio::test]
async fn numbers_have_no_gaps_when_many_are_issued_at_once() {
    let app = App::start_with(TERMS).await;
    let shop = shop_of_last_month(&app).await;
    for name in ["dora", "emil", "fay", "gus", "hal"] {
        let consumer = app.user(name).await;
        subscribe(&consumer, shop.plan).await;
    }
    since_last_month(&app, &shop).await;
    let runs = tokio::join!(issue_all(&app), issue_all(&app), issue_all(&app));
    assert_eq!(runs.0.issued + runs.1.issued + runs.2.issued, 6);
    let numbers = "SELECT count(DISTINCT sequence) * 100 + max(sequence) FROM invoices";
    assert_eq!(ask_database(&app, numbers).await, 606);
}

#[tokio::test]
async fn an_issued_invoice_and_the_ledger_cannot_be_changed() {
    let app = App::start_with(TERMS).await;
    let _shop = shop_of_last_month(&app).await;
    assert_eq!(issue_all(&app).await.issued, 1);
    let client = app.state.store.connection().await.unwrap();
    for sql in [
        "UPDATE invoices SET total = 0",
        "UPDATE invoices SET fee = 0",
        "UPDATE invoice_lines SET amount = 0",
        "DELETE FROM invoice_lines",
        "DELETE FROM invoices",
        "UPDATE billing_events SET amount = 0",
        "DELETE FROM billing_events",
    ] {
        assert!(client.batch_execute(sql).await.is_err(), "{sql}");
    }
}

#[tokio::test]
async fn plans_of_two_currencies_make_two_invoices() {
    let app = App::start_with(TERMS).await;
    let shop = shop_of_last_month(&app).await;
    let product = draft_product(&shop.publisher, "maps", json!({})).await;
    add_endpoint(&shop.publisher, product, "GET", "/").await;
    let plan = add_plan(&shop.publisher, product, "yen", json!({"price": "1000", "currency": "JPY"})).await;
    publish(&shop.publisher, product).await;
    subscribe(&shop.consumer, plan).await;
    since_last_month(&app, &shop).await;
    assert_eq!(issue_all(&app).await.issued, 1, "one pair");
    let list = invoices_of(&shop).await;
    let mut totals: Vec<(String, Decimal)> = list
        .iter()
        .map(|invoice| (invoice["currency"].as_str().unwrap().to_owned(), cents(&invoice["total"])))
        .collect();
    totals.sort();
    assert_eq!(totals, [("JPY".to_owned(), Decimal::from(100_000)), ("USD".to_owned(), Decimal::from(3_047))]);
}
