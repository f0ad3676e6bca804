//! What many keys cost: a database filled by set-based statements, and the memory of the process that builds from it.

use super::*;

/// Keys of one subscription.
const KEYS_A_SUBSCRIPTION: i64 = 10;

/// Fills a database as the API would have left it, without its changes: `keys` keys on a tenth as many subscriptions.
pub(crate) async fn fill(rows: &Rows, keys: i64) {
    let subscriptions = (keys / KEYS_A_SUBSCRIPTION).max(1);
    let products = (subscriptions / 100).clamp(1, 1_000);
    let consumers = subscriptions.div_euclid(products) + 1;
    let publisher = rows.organization("publisher").await;
    let model = rows.product(publisher, "model").await;
    // Rows that point at each other are written at once; their foreign keys hold by how they are made.
    let sql = format!(
        "SET session_replication_role = replica;
        CREATE FUNCTION pg_temp.make_id(kind int, i bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS
            $$ SELECT (to_hex(402653184 + kind) || '-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid $$;
        INSERT INTO organizations (id, slug, name)
            SELECT pg_temp.make_id(1, i), 'consumer-' || i, 'Consumer' FROM generate_series(1, {consumers}) i;
        INSERT INTO api_products (id, organization_id, slug, name, status, live_release_id)
            SELECT pg_temp.make_id(2, i), '{publisher}', 'product-' || i, 'Product', 'published', pg_temp.make_id(3, i)
            FROM generate_series(1, {products}) i;
        INSERT INTO releases (id, product_id, number, compiled, summary, created_by)
            SELECT pg_temp.make_id(3, i), pg_temp.make_id(2, i), 1, r.compiled, r.summary, r.created_by
            FROM generate_series(1, {products}) i, releases r WHERE r.product_id = '{model}';
        INSERT INTO plans (id, product_id, family_id, slug, name, status, price, currency, rate_limit, included_requests)
            SELECT pg_temp.make_id(4, i), pg_temp.make_id(2, i), pg_temp.make_id(4, i), 'basic', 'Basic', 'active', 0, 'USD', 60, 1000
            FROM generate_series(1, {products}) i;
        INSERT INTO rate_limit_policies (id, plan_id, requests_per_minute, burst_limit)
            SELECT pg_temp.make_id(4, i), pg_temp.make_id(4, i), 60, 6 FROM generate_series(1, {products}) i;
        INSERT INTO subscriptions (id, product_id, plan_id, user_id, organization_id, status, activated_at, period_start,
                period_end, period_id)
            SELECT pg_temp.make_id(5, i), pg_temp.make_id(2, i % {products} + 1), pg_temp.make_id(4, i % {products} + 1), '{user}',
                pg_temp.make_id(1, i / {products} + 1), 'active', now(), '2026-11-01', '2026-12-01', 202611
            FROM generate_series(0, {subscriptions} - 1) i;
        INSERT INTO api_keys (id, subscription_id, name, key_digest, prefix, last_four, environment, created_by)
            SELECT pg_temp.make_id(6, i), pg_temp.make_id(5, i % {subscriptions}), 'key', sha256(int8send(i)), 'hub_live_', 'abcd',
                'live', '{user}' FROM generate_series(1, {keys}) i;
        RESET session_replication_role;
        ANALYZE",
        user = rows.user
    );
    rows.client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{error:?}"));
}

/// A figure of this process in bytes: `VmRSS`, or its highest so far, `VmHWM`.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1_024
}

/// `APIHUB_SCALE_KEYS=10000000 cargo test --release -p apihub-control-plane many_keys -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: what a control plane holds of a million keys"]
async fn many_keys_cost_little_memory() {
    let keys: i64 = std::env::var("APIHUB_SCALE_KEYS").map_or(1_000_000, |keys| keys.parse().unwrap());
    let rows = Rows::start().await;
    let started = std::time::Instant::now();
    fill(&rows, keys).await;
    println!("filled with {keys} keys in {:.0} s", started.elapsed().as_secs_f64());
    rows.number().await;
    let before = memory("VmRSS");
    let (mut builder, book) = builder(&rows);
    let started = std::time::Instant::now();
    builder.step().await.unwrap();
    let built = started.elapsed();
    let (held, peak) = (memory("VmRSS") - before, memory("VmHWM") - before);
    println!(
        "built in {:.1} s; held {} MiB, {} bytes a key; at most {} MiB, {} bytes a key",
        built.as_secs_f64(),
        held >> 20,
        held / keys.unsigned_abs(),
        peak >> 20,
        peak / keys.unsigned_abs()
    );
    let started = std::time::Instant::now();
    let full = book.full().unwrap();
    let sizes: Vec<usize> = full.chunks().map(|chunk| chunk.len()).collect();
    println!(
        "a full snapshot: {} MiB in {} chunks, read in {:.1} s; at most {} MiB held",
        sizes.iter().sum::<usize>() >> 20,
        sizes.len(),
        started.elapsed().as_secs_f64(),
        (memory("VmHWM") - before) >> 20
    );
}
