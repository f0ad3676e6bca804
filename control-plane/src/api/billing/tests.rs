//! Billing through the router: who sees and does what, and that previews, alerts and documents say what invoices do.

use axum::http::{Method, StatusCode};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::api::fixture::{
    Shop, add_plan, ask_database, hold_pair, publish, run_sql, since_last_month, subscribe, until_blocked, use_api,
};
use crate::billing::{alerts, issue, job};
use crate::store::quota::{PeriodOf, used_in_periods};
use crate::testing::{Answer, App, Client};

const TERMS: &str = "[billing]\nfee_percent = \"10\"\nsimulation_clock = true\n";
const LAST_MONTH: &str = "(SELECT min(usage_from) FROM billing_months)";

fn plan_terms() -> Value {
    json!({"price": "30", "included_requests": 1000, "quota_mode": "soft", "overage_price_per_1000": "2"})
}

/// A shop with one issued invoice of 38.00: 30.00 and 4,000 requests beyond the included ones.
async fn invoiced_shop(app: &App) -> (Shop, String) {
    let shop = Shop::with_plan(app, plan_terms()).await;
    since_last_month(app, &shop).await;
    use_api(app, shop.subscription, shop.plan, LAST_MONTH, 5_000).await;
    job::settle(&app.state.store, &app.state.settings.billing, None).await.unwrap();
    let list = shop.consumer.get(&shop.invoices_path()).await.expect(StatusCode::OK).json;
    let id = list["data"][0]["id"].as_str().unwrap().to_owned();
    (shop, format!("/v1/invoices/{id}"))
}

fn decimal(value: &Value) -> Decimal {
    value.as_str().unwrap().parse().unwrap()
}

async fn events(client: &Client, organization: uuid::Uuid, kind: &str) -> Vec<Value> {
    let path = format!("/v1/organizations/{organization}/billing-events?kind={kind}&limit=100");
    client.get(&path).await.expect(StatusCode::OK).json["data"].as_array().unwrap().clone()
}

async fn advance(admin: &Client, shop: &Shop) -> Answer {
    admin.post(&format!("/v1/billing-clocks/{}/advance", shop.publisher_organization), json!({})).await
}

#[tokio::test]
async fn each_side_sees_its_invoices_an_operator_all_and_a_stranger_none() {
    let app = App::start_with(TERMS).await;
    let (shop, invoice) = invoiced_shop(&app).await;
    let (admin, stranger) = (app.admin("root").await, app.user("sam").await);
    let received = shop.consumer.get(&invoice).await.expect(StatusCode::OK);
    assert_eq!((decimal(&received.json["total"]), received.json.get("fee")), (Decimal::from(38), None));
    assert_eq!(received.json["lines"].as_array().unwrap().len(), 2);
    assert_eq!(received.header("etag"), format!("\"{}\"", received.json["version"]));
    let issued = shop.publisher.get(&invoice).await.expect(StatusCode::OK).json;
    assert_eq!(decimal(&issued["fee"]), Decimal::new(38, 1));
    assert_eq!(decimal(&admin.get(&invoice).await.expect(StatusCode::OK).json["fee"]), Decimal::new(38, 1));
    stranger.get(&invoice).await.expect_problem(404, "not_found");
    for path in ["csv", "html", "pdf"] {
        stranger.get(&format!("{invoice}/{path}")).await.expect_problem(404, "not_found");
    }
    let of_publisher = format!("/v1/organizations/{}/issued-invoices", shop.publisher_organization);
    assert_eq!(shop.publisher.get(&of_publisher).await.json["data"].as_array().unwrap().len(), 1);
    shop.consumer.get(&of_publisher).await.expect_problem(404, "not_found");
    shop.publisher.get(&shop.invoices_path()).await.expect_problem(404, "not_found");
    assert_eq!(admin.get("/v1/invoices?status=issued").await.json["data"].as_array().unwrap().len(), 1);
    shop.consumer.get("/v1/invoices").await.expect_problem(403, "forbidden");
    let filtered = format!("{}?month=2020-01", shop.invoices_path());
    assert_eq!(shop.consumer.get(&filtered).await.json["data"], json!([]));
    let wrong = shop.consumer.get(&format!("{}?month=2020-1", shop.invoices_path())).await;
    assert_eq!(wrong.expect_problem(422, "validation_failed").pointers(), ["/month"]);
    let fees = events(&shop.consumer, shop.consumer_organization, "fee.charged").await;
    assert_eq!(fees.len(), 0, "the fee is between publisher and platform");
    assert_eq!(events(&shop.publisher, shop.publisher_organization, "fee.charged").await.len(), 1);
}

#[tokio::test]
async fn the_consumer_pays_once_and_a_failed_payment_leaves_a_trace() {
    let app = App::start_with(TERMS).await;
    let (shop, invoice) = invoiced_shop(&app).await;
    let pay = format!("{invoice}/pay");
    shop.publisher.post(&pay, json!({})).await.expect_problem(403, "forbidden");
    shop.consumer
        .with(&[("if-match", "\"99\"")], Method::POST, &pay, Some(json!({})))
        .await
        .expect_problem(412, "precondition_failed");
    let failed = shop.consumer.post(&pay, json!({"outcome": "fail"})).await.expect(StatusCode::OK);
    assert_eq!(failed.json["status"], "issued");
    let paid = shop.consumer.raw(Method::POST, &pay, "application/json", "").await.expect(StatusCode::OK);
    assert_eq!(paid.json["status"], "paid");
    shop.consumer.post(&pay, json!({})).await.expect_problem(409, "invalid_state");
    shop.publisher.post(&format!("{invoice}/void"), json!({})).await.expect_problem(409, "invalid_state");
    let consumer = shop.consumer_organization;
    assert_eq!(events(&shop.consumer, consumer, "payment.failed").await.len(), 1);
    let succeeded = events(&shop.consumer, consumer, "payment.succeeded").await;
    assert_eq!(decimal(&succeeded[0]["amount"]), Decimal::from(38));
    assert_eq!(ask_database(&app, "SELECT count(*) FROM audit_log WHERE action = 'invoice.pay'").await, 2);
}

#[tokio::test]
async fn only_who_keeps_the_money_pays() {
    let app = App::start_with(TERMS).await;
    let (shop, invoice) = invoiced_shop(&app).await;
    let dora = app.user("dora").await;
    let members = format!("/v1/organizations/{}/members", shop.consumer_organization);
    let body = json!({"email": dora.email, "role": "developer"});
    shop.consumer.post(&members, body).await.expect(StatusCode::CREATED);
    dora.get(&invoice).await.expect(StatusCode::OK);
    dora.post(&format!("{invoice}/pay"), json!({})).await.expect_problem(403, "insufficient_role");
}

#[tokio::test]
async fn a_void_invoice_gives_its_credit_back_and_frees_nothing_that_another_holds() {
    let app = App::start_with(TERMS).await;
    let shop = Shop::with_plan(&app, plan_terms()).await;
    since_last_month(&app, &shop).await;
    let credits = format!("/v1/organizations/{}/credits", shop.consumer_organization);
    let bought = json!({"publisher_organization_id": shop.publisher_organization, "amount": "10.00"});
    let headers = [("idempotency-key", "k1")];
    for _ in 0..2 {
        let answer = shop.consumer.with(&headers, Method::POST, &credits, Some(bought.clone())).await;
        assert_eq!(decimal(&answer.expect(StatusCode::CREATED).json["balance"]), Decimal::from(10), "bought once");
    }
    job::settle(&app.state.store, &app.state.settings.billing, None).await.unwrap();
    let list = shop.consumer.get(&shop.invoices_path()).await.json["data"].clone();
    assert_eq!(decimal(&list[0]["total"]), Decimal::from(20));
    let balance = async || decimal(&shop.consumer.get(&credits).await.json["data"][0]["balance"]);
    assert_eq!(balance().await, Decimal::ZERO);
    let invoice = format!("/v1/invoices/{}", list[0]["id"].as_str().unwrap());
    shop.consumer.post(&format!("{invoice}/void"), json!({})).await.expect_problem(403, "forbidden");
    let voided = shop.publisher.post(&format!("{invoice}/void"), json!({})).await.expect(StatusCode::OK);
    assert_eq!((voided.json["status"].as_str(), voided.json["number"].as_str()), (Some("void"), Some("INV-000001")));
    assert_eq!(balance().await, Decimal::from(10));
    assert_eq!(job::settle(&app.state.store, &app.state.settings.billing, None).await.unwrap().issued, 0);
}

#[tokio::test]
async fn credit_is_between_partners_and_in_whole_minor_units() {
    let app = App::start_with(TERMS).await;
    let (shop, stranger) = (Shop::with_plan(&app, plan_terms()).await, app.user("sam").await);
    let credits = format!("/v1/organizations/{}/credits", shop.consumer_organization);
    for (amount, publisher, pointer) in [
        ("0", shop.publisher_organization, "/amount"),
        ("1.001", shop.publisher_organization, "/amount"),
        ("5", stranger.organization_id, "/publisher_organization_id"),
    ] {
        let body = json!({"publisher_organization_id": publisher, "amount": amount});
        let refused = shop.consumer.post(&credits, body).await.expect_problem(422, "validation_failed");
        assert_eq!(refused.pointers(), [pointer]);
    }
    let gifts = format!("/v1/organizations/{}/credit-gifts", shop.publisher_organization);
    let gift = json!({"consumer_organization_id": shop.consumer_organization, "amount": "7.5"});
    shop.publisher.post(&gifts, gift).await.expect(StatusCode::CREATED);
    let seen = shop.consumer.get(&credits).await.json["data"].clone();
    assert_eq!((decimal(&seen[0]["balance"]), seen[0]["currency"].as_str()), (Decimal::new(75, 1), Some("USD")));
}

#[tokio::test]
async fn the_running_invoice_says_what_the_invoice_will() {
    let app = App::start_with(TERMS).await;
    let (shop, admin) = (Shop::with_plan(&app, plan_terms()).await, app.admin("root").await);
    since_last_month(&app, &shop).await;
    advance(&admin, &shop).await.expect(StatusCode::OK);
    use_api(&app, shop.subscription, shop.plan, "now()", 2_500).await;
    let upcoming = format!("/v1/organizations/{}/upcoming-invoices", shop.consumer_organization);
    let preview = shop.consumer.get(&upcoming).await.expect(StatusCode::OK).json["data"][0].clone();
    assert_eq!((decimal(&preview["charged"]), decimal(&preview["total"])), (Decimal::from(33), Decimal::from(33)));
    let moved = advance(&admin, &shop).await.expect(StatusCode::OK);
    assert_eq!(moved.json["issued"], 1);
    let invoices = shop.consumer.get(&shop.invoices_path()).await.json["data"].as_array().unwrap().clone();
    let last = invoices.last().unwrap();
    assert_eq!((decimal(&last["total"]), &last["month"]), (Decimal::from(33), &preview["month"]));
    let full = shop.consumer.get(&format!("/v1/invoices/{}", last["id"].as_str().unwrap())).await.json;
    let descriptions = |lines: &Value| -> Vec<Value> {
        lines.as_array().unwrap().iter().map(|line| line["description"].clone()).collect()
    };
    assert_eq!(descriptions(&full["lines"]), descriptions(&preview["lines"]));
}

#[tokio::test]
async fn the_clock_is_for_operators_where_it_is_switched_on_and_moves_what_gateways_are_told() {
    let app = App::start_with(TERMS).await;
    let (shop, admin) = (Shop::with_plan(&app, plan_terms()).await, app.admin("root").await);
    advance(&shop.publisher, &shop).await.expect_problem(403, "forbidden");
    let before = shop.consumer.get(&shop.subscription_path("")).await.json;
    let moved = advance(&admin, &shop).await.expect(StatusCode::OK);
    assert!(moved.header("x-config-revision").parse::<u64>().unwrap() > 0);
    let after = shop.consumer.get(&shop.subscription_path("")).await.json;
    assert_eq!(after["period_start"], before["period_end"]);
    assert_eq!(moved.json["period_end"], after["period_end"]);
    // Gateways count by the time of events: the new month began at this quarter of an hour, and is as long as it is.
    let end = "SELECT (extract(epoch FROM s.period_end) - c.ahead_s)::bigint FROM subscriptions s, billing_clocks c";
    let left = ask_database(&app, end).await - jiff::Timestamp::now().as_second();
    assert!((27 * 86_400..=31 * 86_400).contains(&left), "{left}");
    let refused = App::start().await;
    let root = refused.admin("root").await;
    let path = format!("/v1/billing-clocks/{}/advance", root.organization_id);
    root.post(&path, json!({})).await.expect_problem(403, "forbidden");
    let nobody = format!("/v1/billing-clocks/{}", uuid::Uuid::now_v7());
    root.get(&nobody).await.expect_problem(404, "not_found");
    root.get(&format!("/v1/billing-clocks/{}", root.organization_id)).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn quotas_are_of_the_month_that_runs_also_where_the_clock_has_moved_it() {
    let app = App::start_with(TERMS).await;
    let (shop, admin) = (Shop::with_plan(&app, plan_terms()).await, app.admin("root").await);
    since_last_month(&app, &shop).await;
    advance(&admin, &shop).await.expect(StatusCode::OK);
    let meter = ask_database(&app, "SELECT meter_id FROM subscriptions").await;
    let period =
        async || i32::try_from(ask_database(&app, "SELECT period_id::bigint FROM subscriptions").await).unwrap();
    let used = async |period: i32| {
        let wanted = [PeriodOf { subscription: meter, period }];
        used_in_periods(&app.state.store, &wanted).await.unwrap()[0].used
    };
    let shown = async || {
        let path = format!("/v1/organizations/{}/analytics/quotas", shop.consumer_organization);
        let quota = shop.consumer.get(&path).await.expect(StatusCode::OK).json["data"][0].clone();
        ["used", "included_requests", "remaining"].map(|name| quota[name].as_i64())
    };
    use_api(&app, shop.subscription, shop.plan, "now()", 700).await;
    let first = period().await;
    assert_eq!((used(first).await, shown().await), (700, [Some(700), Some(1_000), Some(300)]));

    advance(&admin, &shop).await.expect(StatusCode::OK);
    let second = period().await;
    assert_ne!(first, second);
    // The quarter of an hour in which the clock moved is shared: what was used of it before stays where it was.
    assert_eq!((used(first).await, used(second).await), (700, 0));
    assert_eq!(shown().await, [Some(0), Some(1_000), Some(1_000)]);
    use_api(&app, shop.subscription, shop.plan, "now()", 50).await;
    assert_eq!((used(first).await, used(second).await), (700, 50));
    assert_eq!(shown().await, [Some(50), Some(1_000), Some(950)]);
}

#[tokio::test]
async fn a_budget_and_a_quota_warn_at_85_and_100_per_cent_once_each() {
    let app = App::start_with(TERMS).await;
    let (shop, admin) = (Shop::with_plan(&app, plan_terms()).await, app.admin("root").await);
    since_last_month(&app, &shop).await;
    advance(&admin, &shop).await.expect(StatusCode::OK);
    let consumer = shop.consumer_organization;
    let path = shop.budget_path();
    let set = shop.consumer.put(&path, json!({"amount": "35"})).await.expect(StatusCode::OK);
    assert_eq!(set.header("etag"), "\"1\"");
    let told = async || {
        alerts::run(&app.state.store).await.unwrap();
        alerts::run(&app.state.store).await.unwrap();
        let percents = |events: Vec<Value>| -> Vec<String> {
            events.iter().map(|event| event["details"]["percent"].as_str().unwrap().to_owned()).collect()
        };
        let budget = percents(events(&shop.consumer, consumer, "alert.budget").await);
        (budget, percents(events(&shop.consumer, consumer, "alert.quota").await))
    };
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    use_api(&app, shop.subscription, shop.plan, "now()", 849).await;
    assert_eq!(told().await, (list(&["85"]), list(&[])), "30.00 of 35.00");
    use_api(&app, shop.subscription, shop.plan, "now()", 1).await;
    assert_eq!(told().await, (list(&["85"]), list(&["85"])));
    use_api(&app, shop.subscription, shop.plan, "now()", 2_650).await;
    assert_eq!(told().await, (list(&["85", "100"]), list(&["85", "100"])), "35.00 of 35.00, 3,500 of 1,000");
    shop.consumer.delete(&path).await.expect(StatusCode::NO_CONTENT);
    shop.consumer.delete(&path).await.expect_problem(404, "not_found");
    let budgets = shop.consumer.get(&format!("/v1/organizations/{consumer}/budgets")).await;
    assert_eq!(budgets.expect(StatusCode::OK).json["data"], json!([]));
}

#[tokio::test]
async fn what_a_consumer_means_to_spend_is_not_the_publishers_business() {
    let app = App::start_with(TERMS).await;
    let (shop, _) = invoiced_shop(&app).await;
    shop.consumer.put(&shop.budget_path(), json!({"amount": "31"})).await.expect(StatusCode::OK);
    use_api(&app, shop.subscription, shop.plan, "now()", 900).await;
    alerts::run(&app.state.store).await.unwrap();
    let kinds = async |client: &Client, organization: uuid::Uuid| {
        let path = format!("/v1/organizations/{organization}/billing-events?limit=100");
        let list = client.get(&path).await.expect(StatusCode::OK).json["data"].as_array().unwrap().clone();
        list.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let consumers = kinds(&shop.consumer, shop.consumer_organization).await;
    assert_eq!(consumers, ["invoice.issued", "alert.budget", "alert.quota"]);
    let publishers = kinds(&shop.publisher, shop.publisher_organization).await;
    assert_eq!(publishers, ["invoice.issued", "fee.charged", "alert.quota"], "he sees usage, and no budget");
    assert_eq!(events(&shop.publisher, shop.publisher_organization, "alert.budget").await, Vec::<Value>::new());
}

#[tokio::test]
async fn who_buys_and_sells_reads_one_ledger_in_order_each_line_once() {
    let app = App::start_with(TERMS).await;
    let shop = Shop::with_plan(&app, plan_terms()).await;
    let (own, other) = (shop.consumer_organization, shop.publisher_organization);
    let lines = format!(
        "INSERT INTO billing_events (id, occurred_at, kind, consumer_organization_id, publisher_organization_id, dedupe_key, created_at)
         SELECT gen_random_uuid(), now(), (ARRAY['alert.budget', 'fee.charged', 'credit.given'])[1 + n % 3],
             CASE n / 6 WHEN 1 THEN '{other}'::uuid ELSE '{own}' END, CASE n / 6 WHEN 0 THEN '{other}'::uuid ELSE '{own}' END,
             'line ' || n, now() - make_interval(mins => 100 - n / 2)
         FROM generate_series(0, 17) AS n"
    );
    run_sql(&app, &lines).await;
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/organizations/{own}/billing-events?limit=4{cursor}");
        let page = shop.consumer.get(&path).await.expect(StatusCode::OK).json;
        found.extend(page["data"].as_array().unwrap().clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let places: Vec<(&str, &str)> =
        found.iter().map(|event| (event["created_at"].as_str().unwrap(), event["id"].as_str().unwrap())).collect();
    assert!(places.is_sorted_by(|one, next| one < next), "{places:?}");
    // Of six lines each: all but two fees as the consumer, all but two budgets as the publisher, and all as both.
    assert_eq!(places.len(), 4 + 4 + 6);
}

#[tokio::test]
async fn of_two_who_set_the_same_budget_from_the_same_version_one_is_refused() {
    let app = App::start_with(TERMS).await;
    let shop = Shop::with_plan(&app, plan_terms()).await;
    let path = shop.budget_path();
    let set = async |if_match: &str, amount: &str| {
        let body = Some(json!({"amount": amount}));
        shop.consumer.with(&[("if-match", if_match)], Method::PUT, &path, body).await
    };
    for nothing in ["\"1\"", "*"] {
        let refused = set(nothing, "30").await.expect_problem(412, "precondition_failed");
        assert_eq!(refused.header("etag"), "\"0\"", "there is none yet");
    }
    // Both find that there is none; then both find the first version.
    for (version, amounts) in [("\"0\"", ["30", "40"]), ("\"1\"", ["50", "60"])] {
        let held = hold_pair(&app, &shop).await;
        let meet = async {
            until_blocked(&app.state.store, 2).await;
            held.batch_execute("COMMIT").await.unwrap();
        };
        let (one, other, ()) = tokio::join!(set(version, amounts[0]), set(version, amounts[1]), meet);
        let mut statuses = [one.status, other.status];
        statuses.sort();
        assert_eq!(statuses, [StatusCode::OK, StatusCode::PRECONDITION_FAILED], "{version}");
    }
    assert_eq!(ask_database(&app, "SELECT version FROM budgets").await, 2);
    let stale = shop.consumer.with(&[("if-match", "\"1\"")], Method::DELETE, &path, None).await;
    stale.expect_problem(412, "precondition_failed");
    let seen = shop.consumer.with(&[("if-match", "\"2\"")], Method::DELETE, &path, None).await;
    seen.expect(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_budget_is_rated_when_it_or_its_subscriptions_were_touched_and_once_an_hour() {
    let app = App::start_with(TERMS).await;
    let shop = Shop::with_plan(&app, plan_terms()).await;
    since_last_month(&app, &shop).await;
    shop.consumer.put(&shop.budget_path(), json!({"amount": "30"})).await.expect(StatusCode::OK);
    let aged = |table: &str| format!("UPDATE {table} SET updated_at = now() - interval '2 hours';");
    let replica = "BEGIN; SET LOCAL session_replication_role = replica;";
    run_sql(&app, &format!("{replica} {} {} COMMIT", aged("budgets"), aged("subscriptions"))).await;
    // What a gateway that was cut off has delivered since.
    use_api(&app, shop.subscription, shop.plan, "now() - interval '3 hours'", 10).await;
    assert_eq!(alerts::run(&app.state.store).await.unwrap().count, 0, "nobody has touched it");
    assert_eq!(alerts::run_all(&app.state.store).await.unwrap().count, 2, "30.00 of 30.00");

    for (touch, new) in [
        (format!("UPDATE budgets SET amount = 20; {replica} {} COMMIT", aged("subscriptions")), 2),
        (format!("{replica} UPDATE budgets SET amount = 19, updated_at = now() - interval '2 hours'; COMMIT"), 0),
        ("UPDATE subscriptions SET cancel_at = period_end".to_owned(), 2),
    ] {
        run_sql(&app, &touch).await;
        assert_eq!(alerts::run(&app.state.store).await.unwrap().count, new, "{touch}");
    }
    let unused = format!("{replica} UPDATE budgets SET amount = 18, updated_at = now() - interval '2 hours';");
    run_sql(&app, &format!("{unused} {} COMMIT", aged("subscriptions"))).await;
    assert_eq!(alerts::run(&app.state.store).await.unwrap().count, 0);
    use_api(&app, shop.subscription, shop.plan, "now()", 1).await;
    assert_eq!(alerts::run(&app.state.store).await.unwrap().count, 2);
}

#[tokio::test]
async fn the_clock_of_one_publisher_moves_nothing_of_another() {
    let app = App::start_with("[billing]\ndue_days = 0\nsimulation_clock = true\n").await;
    let shop = Shop::with_plan(&app, plan_terms()).await;
    let other = Shop::between(&app, "paul", "cora", plan_terms()).await;
    for shop in [&shop, &other] {
        since_last_month(&app, shop).await;
        shop.consumer.put(&shop.budget_path(), json!({"amount": "1"})).await.expect(StatusCode::OK);
    }
    issue::run(&app.state.store, &app.state.settings.billing, None).await.unwrap();
    advance(&app.admin("root").await, &shop).await.expect(StatusCode::OK);
    let status = async |shop: &Shop| shop.consumer.get(&shop.subscription_path("")).await.json["status"].clone();
    assert_eq!((status(&shop).await, status(&other).await), (json!("past_due"), json!("active")));
    assert_eq!(ask_database(&app, "SELECT count(*) FROM billing_events WHERE kind LIKE 'alert.%'").await, 0);
    job::run_once(&app.state.store, &app.state.settings.billing).await.unwrap();
    assert_eq!(status(&other).await, json!("past_due"));
    assert_eq!(ask_database(&app, "SELECT count(*) FROM billing_events WHERE kind LIKE 'alert.%'").await, 4);
}

#[tokio::test]
async fn a_quota_warns_of_what_gateways_enforce_in_a_part_of_a_period_too() {
    let app = App::start().await;
    let shop = Shop::with_plan(&app, json!({"included_requests": 1_000, "quota_mode": "hard"})).await;
    // Bought when nine tenths of the period were over: a tenth of the requests, a hundred.
    run_sql(
        &app,
        "UPDATE subscriptions SET period_start = now() - interval '9 days', period_end = now() + interval '1 day';
         UPDATE subscription_terms SET starts_at = now()",
    )
    .await;
    let percents = async || -> Vec<Value> {
        alerts::run(&app.state.store).await.unwrap();
        let told = events(&shop.consumer, shop.consumer_organization, "alert.quota").await;
        told.iter().map(|event| event["details"]["percent"].clone()).collect()
    };
    // What failed by our own making is not taken off the quota, however the bill calls it.
    use_api(&app, shop.subscription, shop.plan, "now()", 100).await;
    run_sql(&app, "UPDATE usage_quarter_hours SET failed_count = 20").await;
    assert_eq!(percents().await, Vec::<Value>::new(), "80 of 100");
    // What was admitted is, also where the bill does not count it.
    run_sql(&app, "UPDATE usage_quarter_hours SET failed_count = 0, billable_count = 0").await;
    assert_eq!(percents().await, [json!("85"), json!("100")]);
}

#[tokio::test]
async fn what_if_rates_the_last_30_days_under_a_draft() {
    let app = App::start_with(TERMS).await;
    let shop = Shop::with_plan(&app, plan_terms()).await;
    use_api(&app, shop.subscription, shop.plan, "now() - interval '29 days'", 5_000).await;
    use_api(&app, shop.subscription, shop.plan, "now() - interval '31 days'", 70_000).await;
    let draft = add_plan(
        &shop.publisher,
        shop.product,
        "draft",
        json!({"price": "10", "included_requests": 0, "quota_mode": "soft", "overage_price_per_1000": "6"}),
    );
    let path = format!("/v1/plans/{}/what-if", draft.await);
    let answer = shop.publisher.get(&path).await.expect(StatusCode::OK).json;
    assert_eq!((decimal(&answer["total_now"]), decimal(&answer["total_then"])), (Decimal::from(38), Decimal::from(40)));
    assert_eq!((answer["subscriptions"].clone(), answer["data"][0]["billable_then"].clone()), (json!(1), json!(5_000)));
    shop.consumer.get(&path).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn documents_carry_their_types_and_a_policy_without_scripts() {
    let app = App::start_with(TERMS).await;
    let (shop, invoice) = invoiced_shop(&app).await;
    let html = shop.consumer.get(&format!("{invoice}/html")).await.expect(StatusCode::OK);
    assert!(html.header("content-type").starts_with("text/html"));
    assert!(html.header("content-security-policy").starts_with("default-src 'none'; style-src 'sha256-"));
    assert!(html.text.contains("38.00 USD") && html.text.contains("INV-000001"), "{}", html.text);
    let csv = shop.consumer.get(&format!("{invoice}/csv")).await.expect(StatusCode::OK);
    assert_eq!(csv.header("content-disposition"), "attachment; filename=\"INV-000001.csv\"");
    assert_eq!(csv.text.lines().count(), 4);
    let pdf = shop.consumer.get(&format!("{invoice}/pdf")).await.expect(StatusCode::OK);
    assert_eq!((pdf.header("content-type"), &pdf.text[..5]), ("application/pdf", "%PDF-"));
}

#[tokio::test]
async fn a_dearer_plan_takes_effect_at_once_and_a_cheaper_one_at_the_end_of_the_period() {
    let app = App::start_with(TERMS).await;
    let shop = Shop::with_plan(&app, plan_terms()).await;
    let pro = add_plan(&shop.publisher, shop.product, "pro", json!({"price": "90"})).await;
    let mini = add_plan(&shop.publisher, shop.product, "mini", json!({"price": "5"})).await;
    let euro = add_plan(&shop.publisher, shop.product, "euro", json!({"price": "95", "currency": "EUR"})).await;
    publish(&shop.publisher, shop.product).await;
    let draft = add_plan(&shop.publisher, shop.product, "draft", json!({"price": "95"})).await;
    let path = shop.subscription_path("/plan");
    let change = async |plan: uuid::Uuid| shop.consumer.post(&path, json!({"plan_id": plan})).await;
    change(draft).await.expect_problem(404, "not_found");
    change(euro).await.expect_problem(409, "invalid_state");
    shop.publisher.post(&path, json!({"plan_id": pro})).await.expect_problem(403, "forbidden");

    let previewed = async |plan: uuid::Uuid| {
        let path = shop.subscription_path(&format!("/plan-preview?plan_id={plan}"));
        shop.consumer.get(&path).await.expect(StatusCode::OK).json
    };
    let (later, now) = (previewed(mini).await, previewed(pro).await);
    assert_eq!(
        (later["effect"].as_str(), later["takes_effect_at"].clone()),
        (Some("period_end"), period_end(&shop).await)
    );
    assert_eq!(later["total_changed"], later["total_unchanged"]);
    assert_eq!((now["effect"].as_str(), decimal(&now["price"])), (Some("now"), Decimal::from(90)));
    assert!(decimal(&now["total_changed"]) >= decimal(&now["total_unchanged"]));

    let up = change(pro).await.expect(StatusCode::OK);
    assert_eq!((up.json["plan_id"].clone(), up.json["next_plan_id"].clone()), (json!(pro), Value::Null));
    assert!(up.header("x-config-revision").parse::<u64>().unwrap() > 0);
    let down = change(mini).await.expect(StatusCode::OK).json;
    assert_eq!((down["plan_id"].clone(), down["next_plan_id"].clone()), (json!(pro), json!(mini)));
    assert_eq!(change(pro).await.json["next_plan_id"], Value::Null, "taken back");
    change(mini).await.expect(StatusCode::OK);
    let stale = shop.consumer.with(&[("if-match", "\"1\"")], Method::POST, &path, Some(json!({"plan_id": pro}))).await;
    stale.expect_problem(412, "precondition_failed");

    let admin = app.admin("root").await;
    advance(&admin, &shop).await.expect(StatusCode::OK);
    let after = shop.consumer.get(&shop.subscription_path("")).await.json;
    assert_eq!((after["plan_id"].clone(), after["next_plan_id"].clone()), (json!(mini), Value::Null));
    let held = "SELECT string_agg(p.slug, ' ' ORDER BY t.starts_at) = 'basic pro mini' AND
        bool_and(coalesce(t.ends_at, 'infinity') > t.starts_at) FROM subscription_terms t JOIN plans p ON p.id = t.plan_id";
    assert_eq!(ask_database(&app, &format!("SELECT ({held})::int::bigint")).await, 1);
    let boundary = "SELECT count(*) FROM subscription_terms t JOIN plans p ON p.id = t.plan_id JOIN billing_months m
        ON m.starts_at = t.starts_at WHERE p.slug = 'mini'";
    assert_eq!(ask_database(&app, boundary).await, 1, "from the first instant of the month");
    assert_eq!(events(&shop.consumer, shop.consumer_organization, "subscription.plan_change").await.len(), 4);

    shop.consumer.post(&shop.subscription_path("/cancel"), json!({})).await.expect(StatusCode::OK);
    change(pro).await.expect_problem(409, "invalid_state");
}

async fn period_end(shop: &Shop) -> Value {
    shop.consumer.get(&shop.subscription_path("")).await.json["period_end"].clone()
}

#[tokio::test]
async fn a_trial_is_free_once() {
    let app = App::start_with(TERMS).await;
    let mut terms = plan_terms();
    terms["trial_days"] = json!(14);
    let shop = Shop::with_plan(&app, terms).await;
    let trials = "SELECT count(free_until) FROM subscription_terms";
    assert_eq!(ask_database(&app, trials).await, 1);
    let days = "SELECT round(extract(epoch FROM free_until - starts_at) / 86400)::bigint FROM subscription_terms";
    assert_eq!(ask_database(&app, days).await, 14);
    shop.consumer.post(&shop.subscription_path("/cancel"), json!({"when": "now"})).await.expect(StatusCode::OK);
    subscribe(&shop.consumer, shop.plan).await;
    assert_eq!(ask_database(&app, trials).await, 1, "no second trial");
}
