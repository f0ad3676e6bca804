//! Verification finds what was tampered with, whatever it was, and nothing where all is well.

use serde_json::json;

use super::*;
use crate::api::fixture::{Shop, ask_database, run_sql, since_last_month, until_blocked, use_api};
use crate::billing::issue;
use crate::testing::App;

const LAST_MONTH: &str = "(SELECT min(usage_from) FROM billing_months)";

async fn invoiced() -> (App, Shop) {
    let app = App::start_with("[billing]\nfee_percent = \"10\"\n").await;
    let terms = json!({"price": "30", "included_requests": 1000, "quota_mode": "soft", "overage_price_per_1000": "2"});
    let shop = Shop::with_plan(&app, terms).await;
    since_last_month(&app, &shop).await;
    use_api(&app, shop.subscription, shop.plan, LAST_MONTH, 5_000).await;
    issue::run(&app.state.store, &app.state.settings.billing, None).await.unwrap();
    (app, shop)
}

async fn found(app: &App) -> Vec<Difference> {
    let report = verify(&app.state.store, Selection::default()).await.unwrap();
    let issued = ask_database(app, "SELECT count(*) FROM invoices WHERE status <> 'draft'").await;
    assert_eq!(report.checked, u64::try_from(issued).unwrap());
    report.differences
}

#[tokio::test]
async fn untouched_invoices_have_no_difference() {
    let (app, _shop) = invoiced().await;
    assert_eq!(found(&app).await, []);
}

#[tokio::test]
async fn every_kind_of_tampering_is_found() {
    // The database refuses these; whoever owns it can switch that off.
    for (what, sql) in [
        (
            "a line with its total",
            "UPDATE invoice_lines SET amount = amount + 1 WHERE kind = 'overage'; UPDATE invoices SET total = total + 1",
        ),
        (
            "two lines against each other",
            "UPDATE invoice_lines SET amount = amount + CASE kind WHEN 'plan' THEN 1 ELSE -1 END",
        ),
        ("a quantity", "UPDATE invoice_lines SET quantity = quantity + 1"),
        ("a unit price", "UPDATE invoice_lines SET unit_price = unit_price + 1 WHERE kind = 'plan'"),
        ("the total", "UPDATE invoices SET total = total - 1"),
        ("the fee", "UPDATE invoices SET fee = fee + 1"),
        ("a line taken away", "DELETE FROM invoice_lines WHERE kind = 'overage'; UPDATE invoices SET total = 30"),
        ("less usage", "UPDATE usage_quarter_hours SET billable_count = billable_count - 1000"),
        (
            "more usage",
            "UPDATE usage_quarter_hours SET billable_count = 6000, admitted_count = 6000, request_count = 6000",
        ),
        ("the price of the plan", "UPDATE plans SET price = price + 1"),
        ("the invoice itself", "DELETE FROM billing_events; DELETE FROM invoice_lines; DELETE FROM invoices"),
    ] {
        let (app, _shop) = invoiced().await;
        run_sql(&app, &format!("BEGIN; SET LOCAL session_replication_role = replica; {sql}; COMMIT")).await;
        assert_ne!(found(&app).await, [], "{what}");
    }
}

#[tokio::test]
async fn usage_that_comes_while_an_invoice_is_verified_is_no_difference() {
    let (app, _shop) = invoiced().await;
    let usage = app.state.store.connection().await.unwrap();
    usage.batch_execute("BEGIN; LOCK TABLE usage_quarter_hours").await.unwrap();
    let arrive = async {
        until_blocked(&app.state.store, 1).await;
        let more = "billable_count = 6000, admitted_count = 6000, request_count = 6000";
        usage.batch_execute(&format!("UPDATE usage_quarter_hours SET {more}; COMMIT")).await.unwrap();
    };
    let (report, ()) = tokio::join!(verify(&app.state.store, Selection::default()), arrive);
    assert_eq!(report.unwrap(), Report { checked: 1, differences: Vec::new() });
    assert_eq!(found(&app).await.len(), 1, "afterwards it is late usage");
}

#[tokio::test]
async fn usage_that_came_late_is_told_as_such_until_the_next_invoice() {
    let (app, shop) = invoiced().await;
    use_api(&app, shop.subscription, shop.plan, LAST_MONTH, 1_000).await;
    let late = found(&app).await;
    assert_eq!(late.len(), 1, "{late:?}");
    assert!(late[0].is_late_usage && late[0].invoice == "INV-000001", "{late:?}");
}

#[tokio::test]
async fn one_invoice_or_one_month_can_be_asked_for() {
    let (app, _shop) = invoiced().await;
    let none = Selection { month: Some(jiff::civil::date(2020, 1, 1)), ..Selection::default() };
    assert_eq!(verify(&app.state.store, none).await.unwrap(), Report::default());
    let unknown = Selection { invoice: Some(Uuid::now_v7()), ..Selection::default() };
    assert_eq!(verify(&app.state.store, unknown).await.unwrap().checked, 0);
}
