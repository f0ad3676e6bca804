//! A year in a minute: twelve months by the simulation clock, with a late start, an upgrade, a downgrade, prepaid credit, late usage, an
//! unpaid invoice and a cancellation. What each month must cost is computed here, by other arithmetic than the engine's.

use axum::http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::fixture::{Shop, add_plan, ask_database, calm_zone, make_key, publish, run_sql, subscribe, use_api};
use crate::billing::verify::{Selection, verify};
use crate::store::snapshot_rows;
use crate::testing::{App, Client};

const TERMS: &str = "[billing]\nfee_percent = \"5\"\ndue_days = 14\ngrace_days = 7\nsimulation_clock = true\n";

/// In cents and requests.
struct Plan {
    price: u128,
    included: u128,
    per_1000: u128,
}

const BASIC: Plan = Plan { price: 3_000, included: 1_000, per_1000: 200 };
const PRO: Plan = Plan { price: 9_000, included: 10_000, per_1000: 100 };

/// The nearest cent, halves up.
fn nearest(numerator: u128, denominator: u128) -> u128 {
    (2 * numerator + denominator) / (2 * denominator)
}

/// A whole month of one plan.
fn whole(plan: &Plan, used: u128) -> u128 {
    plan.price + nearest(used.saturating_sub(plan.included) * plan.per_1000, 1_000)
}

struct Year {
    app: App,
    shop: Shop,
    admin: Client,
    pro: Uuid,
}

impl Year {
    async fn begin() -> Year {
        let app = App::start_with(TERMS).await;
        let terms = |price: &str, included: u64, overage: &str| json!({"price": price, "included_requests": included, "quota_mode": "soft", "overage_price_per_1000": overage});
        let mut shop = Shop::with_plan(&app, terms("30", 1_000, "2")).await;
        let pro = add_plan(&shop.publisher, shop.product, "pro", terms("90", 10_000, "1")).await;
        publish(&shop.publisher, shop.product).await;
        // A subscription that begins in the publisher's own zone, chosen so that no month begins while the test runs.
        let organization = shop.publisher_organization;
        let cancel = shop.subscription_path("/cancel");
        shop.consumer.post(&cancel, json!({"when": "now"})).await.expect(StatusCode::OK);
        run_sql(&app, "DELETE FROM billing_months").await;
        run_sql(&app, &format!("UPDATE organizations SET time_zone = '{}' WHERE id = '{organization}'", calm_zone()))
            .await;
        shop.subscription = subscribe(&shop.consumer, shop.plan).await;
        (shop.key, shop.secret) = make_key(&shop.consumer, shop.subscription, "production").await;
        let admin = app.admin("root").await;
        Year { app, shop, admin, pro }
    }

    async fn use_now(&self, plan: Uuid, count: i64) {
        use_api(&self.app, self.shop.subscription, plan, "now()", count).await;
    }

    /// Ends the month; answers its invoice, or nothing.
    async fn end_month(&self) -> Option<Value> {
        let path = format!("/v1/billing-clocks/{}/advance", self.shop.publisher_organization);
        let before = self.invoices().await.len();
        self.admin.post(&path, json!({})).await.expect(StatusCode::OK);
        let after = self.invoices().await;
        assert!(after.len() <= before + 1);
        after.into_iter().nth(before)
    }

    async fn invoices(&self) -> Vec<Value> {
        let list = self.shop.consumer.get(&format!("{}?limit=100", self.shop.invoices_path())).await;
        list.expect(StatusCode::OK).json["data"].as_array().unwrap().clone()
    }

    async fn pay(&self, invoice: &Value) {
        if invoice["status"] == "issued" {
            let path = format!("/v1/invoices/{}/pay", invoice["id"].as_str().unwrap());
            self.shop.consumer.post(&path, json!({})).await.expect(StatusCode::OK);
        }
    }

    async fn change_plan(&self, plan: Uuid) -> Value {
        let answer = self.shop.consumer.post(&self.shop.subscription_path("/plan"), json!({"plan_id": plan})).await;
        answer.expect(StatusCode::OK).json
    }

    async fn status(&self) -> String {
        let got = self.shop.consumer.get(&self.shop.subscription_path("")).await.json;
        got["status"].as_str().unwrap().to_owned()
    }

    /// Billing time goes on within the month.
    async fn pass_days(&self, days: u32) {
        run_sql(&self.app, &format!("UPDATE billing_clocks SET ahead_s = ahead_s + {days} * 86400")).await;
    }

    /// Seconds between two instants of the database, each cut to its second.
    async fn seconds(&self, from: &str, until: &str) -> u128 {
        let sql = format!("SELECT (floor(extract(epoch FROM {until})) - floor(extract(epoch FROM {from})))::bigint");
        u128::try_from(ask_database(&self.app, &sql).await).unwrap()
    }

    /// What the gateways are told: whether they answer 402 now.
    async fn refuses_unpaid(&self) -> bool {
        let tx = snapshot_rows::begin_moment(&self.app.state.store).await.unwrap();
        let table = snapshot_rows::Table::Subscriptions;
        snapshot_rows::open_table(&tx, table).await.unwrap();
        let rows = snapshot_rows::fetch_rows(&tx, table).await.unwrap();
        snapshot_rows::end_moment(tx).await.unwrap();
        let row = rows.subscriptions.iter().find(|row| row.id == self.shop.subscription).unwrap();
        let now = jiff::Timestamp::now().as_millisecond();
        row.status.as_str() == "past_due" && row.refuse_unpaid_from_ms.is_some_and(|from| from <= now)
    }
}

fn cents(invoice: &Value) -> u128 {
    let text = invoice["total"].as_str().unwrap();
    let total: rust_decimal::Decimal = text.parse().unwrap();
    u128::try_from((total * rust_decimal::Decimal::from(100)).trunc().mantissa()).unwrap()
}

const MONTH: &str = "(SELECT {} FROM billing_months ORDER BY month DESC LIMIT 1)";

fn month(column: &str) -> String {
    MONTH.replace("{}", column)
}

#[tokio::test]
async fn twelve_months_cost_what_they_must_to_the_cent() {
    let year = Year::begin().await;
    let (basic, pro) = (year.shop.plan, year.pro);
    let mut expected: Vec<u128> = Vec::new();

    // 1: begun late, so the price is prorated by seconds, and so are the included requests. Both subscriptions of the month count:
    // the one that was cancelled at once lasted no whole second or a few.
    year.use_now(basic, 600).await;
    expected.push(first_month(&year, 600).await);
    // A quarter of an hour that comes in only after its invoice.
    let late_quarter = "(SELECT min(usage_from) FROM billing_months)";
    let first = year.end_month().await.unwrap();
    year.pay(&first).await;
    let first_now = first_month_of(&year, 600 + 3_000).await;

    // 2: a whole month, and the late usage of the first.
    use_api(&year.app, year.shop.subscription, basic, late_quarter, 3_000).await;
    year.use_now(basic, 1_500).await;
    expected.push(whole(&BASIC, 1_500) + first_now - expected[0]);
    year.pay(&year.end_month().await.unwrap()).await;

    // 3: an upgrade after ten days takes effect at once.
    year.use_now(basic, 2_000).await;
    year.pass_days(10).await;
    assert_eq!(year.change_plan(pro).await["plan_id"], json!(pro));
    year.use_now(pro, 9_000).await;
    expected.push(upgraded_month(&year, 2_000, 9_000).await);
    year.pay(&year.end_month().await.unwrap()).await;

    // 4: a downgrade waits for the end of the month.
    let changed = year.change_plan(basic).await;
    assert_eq!((changed["plan_id"].clone(), changed["next_plan_id"].clone()), (json!(pro), json!(basic)));
    year.use_now(pro, 10_001).await;
    expected.push(whole(&PRO, 10_001));
    year.pay(&year.end_month().await.unwrap()).await;
    let got = year.shop.consumer.get(&year.shop.subscription_path("")).await.json;
    assert_eq!((got["plan_id"].clone(), got["next_plan_id"].clone()), (json!(basic), Value::Null));

    // 5: prepaid credit pays first: 50.00 for a month of 30.00, and the rest of it for the next.
    let credit = json!({"publisher_organization_id": year.shop.publisher_organization, "amount": "50"});
    let path = format!("/v1/organizations/{}/credits", year.shop.consumer_organization);
    year.shop.consumer.post(&path, credit).await.expect(StatusCode::CREATED);
    expected.push(0);
    assert_eq!(year.end_month().await.unwrap()["status"], "paid", "nothing is left to pay");
    // 6
    year.use_now(basic, 4_000).await;
    expected.push(whole(&BASIC, 4_000) - 2_000);
    year.pay(&year.end_month().await.unwrap()).await;
    // 7
    expected.push(whole(&BASIC, 0));
    year.pay(&year.end_month().await.unwrap()).await;

    // 8: its invoice is not paid; a month later it is due, and the days of grace are over.
    expected.push(whole(&BASIC, 0));
    let unpaid = year.end_month().await.unwrap();
    assert_eq!((year.status().await.as_str(), year.refuses_unpaid().await), ("active", false));
    let fail = format!("/v1/invoices/{}/pay", unpaid["id"].as_str().unwrap());
    let failed = year.shop.consumer.post(&fail, json!({"outcome": "fail"})).await.expect(StatusCode::OK);
    assert_eq!(failed.json["status"], "issued");
    // 9
    expected.push(whole(&BASIC, 0));
    let ninth = year.end_month().await.unwrap();
    assert_eq!((year.status().await.as_str(), year.refuses_unpaid().await), ("past_due", true));
    year.pay(&ninth).await;
    assert!(year.refuses_unpaid().await, "the older one is due still");
    year.pay(&unpaid).await;
    assert_eq!((year.status().await.as_str(), year.refuses_unpaid().await), ("active", false));

    // 10, 11
    for used in [1_001, 123_456] {
        year.use_now(basic, used).await;
        expected.push(whole(&BASIC, u128::try_from(used).unwrap()));
        year.pay(&year.end_month().await.unwrap()).await;
    }
    // 12: cancelled at its end.
    let cancel = year.shop.subscription_path("/cancel");
    year.shop.consumer.post(&cancel, json!({})).await.expect(StatusCode::OK);
    assert_eq!(year.status().await, "active");
    expected.push(whole(&BASIC, 0));
    year.pay(&year.end_month().await.unwrap()).await;
    assert_eq!(year.status().await, "cancelled");
    assert_eq!(year.end_month().await, None, "nothing is owed any more");

    let invoices = year.invoices().await;
    let billed: Vec<u128> = invoices.iter().map(cents).collect();
    assert_eq!(billed, expected);
    let numbers: Vec<&str> = invoices.iter().map(|invoice| invoice["number"].as_str().unwrap()).collect();
    let counted: Vec<String> = (1..=12).map(|number| format!("INV-{number:06}")).collect();
    assert_eq!(numbers, counted);
    assert!(invoices.iter().all(|invoice| invoice["status"] == "paid"));
    the_books_balance(&year, &expected).await;
}

/// The ledger, the credit and the verification agree with the invoices.
async fn the_books_balance(year: &Year, expected: &[u128]) {
    let sum = |kind: &str| {
        format!("SELECT (coalesce(sum(amount), 0) * 100)::bigint FROM billing_events WHERE kind = '{kind}'")
    };
    let total = i64::try_from(expected.iter().sum::<u128>()).unwrap();
    assert_eq!(ask_database(&year.app, &sum("invoice.issued")).await, total);
    assert_eq!(ask_database(&year.app, &sum("payment.succeeded")).await, total);
    assert_eq!(ask_database(&year.app, &sum("credit.used")).await, -5_000);
    assert_eq!(ask_database(&year.app, "SELECT count(*) FROM billing_events WHERE kind = 'payment.failed'").await, 1);
    // The fee is on what was charged, credit or not.
    let fees: u128 = expected
        .iter()
        .enumerate()
        .map(|(place, cents)| match place {
            4 => nearest(3_000 * 5, 100),
            5 => nearest((cents + 2_000) * 5, 100),
            _ => nearest(cents * 5, 100),
        })
        .sum();
    assert_eq!(ask_database(&year.app, &sum("fee.charged")).await, i64::try_from(fees).unwrap());
    let report = verify(&year.app.state.store, Selection::default()).await.unwrap();
    assert_eq!((report.checked, report.differences), (12, vec![]));
}

/// Two subscriptions: one that was held for moments, and the one that stays. Each is rounded by itself.
async fn first_month(year: &Year, used: u128) -> u128 {
    let (start, end) = (month("starts_at"), month("ends_at"));
    first_month_between(year, used, &start, &end).await
}

/// The same, when the month is no longer the newest.
async fn first_month_of(year: &Year, used: u128) -> u128 {
    let first = |column: &str| format!("(SELECT {column} FROM billing_months ORDER BY month LIMIT 1)");
    first_month_between(year, used, &first("starts_at"), &first("ends_at")).await
}

async fn first_month_between(year: &Year, used: u128, start: &str, end: &str) -> u128 {
    let whole_month = year.seconds(start, end).await;
    let of = |place: u32, column: &str| {
        format!("(SELECT {column} FROM subscription_terms ORDER BY starts_at OFFSET {place} LIMIT 1)")
    };
    let moments = year.seconds(&of(0, "starts_at"), &of(0, "ends_at")).await;
    let held = year.seconds(&of(1, "starts_at"), end).await;
    // A started request is given.
    let included = (BASIC.included * held).div_ceil(whole_month);
    let beyond = used.saturating_sub(included);
    let exact = BASIC.price * held * 1_000 + beyond * BASIC.per_1000 * whole_month;
    nearest(BASIC.price * moments, whole_month) + nearest(exact, whole_month * 1_000)
}

/// Basic until the change, pro from then on; what came last is beyond the included requests of both.
async fn upgraded_month(year: &Year, used_basic: u128, used_pro: u128) -> u128 {
    let whole_month = year.seconds(&month("starts_at"), &month("ends_at")).await;
    let change = format!("(SELECT starts_at FROM subscription_terms WHERE plan_id = '{}')", year.pro);
    let before = year.seconds(&month("starts_at"), &change).await;
    let after = whole_month - before;
    assert!((10 * 86_400..11 * 86_400).contains(&before), "{before}");
    let included = (BASIC.included * before + PRO.included * after).div_ceil(whole_month);
    let beyond = (used_basic + used_pro).saturating_sub(included);
    let beyond_pro = beyond.min(used_pro);
    assert!(beyond_pro > 0 && beyond_pro < used_pro, "the case is worth its name: {beyond_pro}");
    let exact = (BASIC.price * before + PRO.price * after) * 1_000
        + (beyond_pro * PRO.per_1000 + (beyond - beyond_pro) * BASIC.per_1000) * whole_month;
    nearest(exact, whole_month * 1_000)
}
