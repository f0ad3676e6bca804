//! Migrations against a real Postgres: from nothing to head, once; an edited or unknown one is refused; the result described.

use std::fmt::Write as _;

use refinery::{Migration, Runner};
use tokio_postgres::{Client, NoTls};

use super::{MigrateError, apply, embedded, head, run};
use crate::postgres::Link;
use crate::publish::builder::testing_rows::store_of;
use crate::testing::empty_database;

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The embedded migrations, with one more or one changed.
fn altered(alter: impl Fn(&mut Vec<Migration>)) -> Runner {
    let mut migrations = embedded::migrations::runner().get_migrations().clone();
    alter(&mut migrations);
    Runner::new(&migrations)
}

#[tokio::test]
async fn an_empty_database_gets_every_migration_and_a_second_run_does_nothing() {
    let database = empty_database().await;
    let first = run(&database.link()).await.unwrap();
    assert_eq!(first.version, head());
    assert_eq!(first.applied.len(), embedded::migrations::runner().get_migrations().len());
    let second = run(&database.link()).await.unwrap();
    assert_eq!(second.applied, Vec::<String>::new());
    assert_eq!(second.version, head());
}

#[tokio::test]
async fn two_processes_that_migrate_at_once_both_succeed() {
    let database = empty_database().await;
    let link = database.link();
    let (one, other) = tokio::join!(run(&link), run(&link));
    let applied = one.unwrap().applied.len() + other.unwrap().applied.len();
    assert_eq!(applied, embedded::migrations::runner().get_migrations().len());
}

#[tokio::test]
async fn an_edited_migration_is_refused_by_name() {
    let database = empty_database().await;
    run(&database.link()).await.unwrap();
    let edited = altered(|migrations| {
        let first = migrations.first_mut().unwrap();
        *first = Migration::unapplied("V0001__accounts", "SELECT 1").unwrap();
    });
    let error = apply(&database.link(), &edited).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Edited(name) if name == "V1__accounts"), "{error}");
    assert!(error.to_string().contains("put the change into a new one"));
}

#[tokio::test]
async fn a_database_of_a_newer_binary_is_refused() {
    let database = empty_database().await;
    let newer = altered(|migrations| migrations.push(Migration::unapplied("V9999__later", "SELECT 1").unwrap()));
    apply(&database.link(), &newer).await.unwrap();
    let error = run(&database.link()).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Unknown(name) if name == "V9999__later"), "{error}");
}

#[tokio::test]
async fn a_failing_migration_says_what_postgres_said_and_leaves_nothing() {
    let database = empty_database().await;
    let faulty = altered(|migrations| {
        migrations.push(Migration::unapplied("V9999__faulty", "CREATE TABLE t (); SELECT no_such_column").unwrap());
    });
    let error = apply(&database.link(), &faulty).await.unwrap_err();
    assert!(error.to_string().contains("no_such_column"), "{error}");
    let client = client(&database.url).await;
    let row = client.query_one("SELECT to_regclass('t') IS NULL", &[]).await.unwrap();
    assert!(row.get::<_, bool>(0), "the failed migration left its table");
}

#[tokio::test]
async fn an_unreachable_database_is_named_without_a_backtrace() {
    let link = Link::read("postgres://nobody@127.0.0.1:1/none", None).unwrap();
    let error = run(&link).await.unwrap_err();
    assert!(matches!(error, MigrateError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn what_was_counted_before_there_was_a_billing_record_is_in_it_and_rolls_up() {
    let database = empty_database().await;
    let before = altered(|migrations| migrations.retain(|migration| migration.version() <= 12));
    apply(&database.link(), &before).await.unwrap();
    let client = client(&database.url).await;
    let minutes = "INSERT INTO usage_minutes SELECT s, date_trunc('minute', now()) - n * interval '7 minutes', s * 2, 1, n % 3, 2, s % 4,
        10, 10, 0, 9, 5, 5, 20000 * n FROM generate_series(1, 20) s, generate_series(1, 30) n";
    assert_eq!(client.execute(minutes, &[]).await.unwrap(), 600);
    let watermark = "INSERT INTO ingest_watermarks (node_id, epoch, contiguous_seq) VALUES (gen_random_uuid(), gen_random_uuid(), 5)";
    client.execute(watermark, &[]).await.unwrap();
    run(&database.link()).await.unwrap();
    let store = store_of(&database.url).await;
    crate::metering::roll_up(&store, jiff::Timestamp::UNIX_EPOCH).await.unwrap();
    crate::metering::audit(&store).await.unwrap();
    let tables = [
        "usage_quarter_hours",
        "usage_days",
        "usage_product_minutes",
        "usage_product_days",
        "usage_subscription_days",
        "usage_subscription_weeks",
    ];
    for table in tables {
        let sum = format!("SELECT sum(request_count)::bigint FROM {table}");
        assert_eq!(client.query_one(&sum, &[]).await.unwrap().get::<_, i64>(0), 6_000, "{table}");
    }
    let histograms = "SELECT sum(count)::bigint FROM usage_product_days, unnest(latency_histogram) AS count";
    assert_eq!(client.query_one(histograms, &[]).await.unwrap().get::<_, i64>(0), 6_000);
    let odd = "SELECT (SELECT count(*) FROM usage_audits WHERE NOT is_equal) + (SELECT count(*) FROM ingest_watermarks WHERE NOT is_closed)";
    assert_eq!(client.query_one(odd, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn the_schema_is_what_the_snapshot_describes() {
    let database = empty_database().await;
    run(&database.link()).await.unwrap();
    let client = client(&database.url).await;
    insta::assert_snapshot!("schema", describe(&client).await);
}

/// Tables with columns, constraints, indexes and triggers, then functions; all in a stable order.
async fn describe(client: &Client) -> String {
    let tables = "SELECT c.oid, c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
                  AND c.relkind IN ('r', 'p') AND c.relname <> 'refinery_schema_history'
                  AND (NOT c.relispartition OR c.relname LIKE '%_default') ORDER BY 2";
    let parts = [
        "SELECT format('  %s %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                CASE WHEN a.attnotnull THEN ' not null' ELSE '' END,
                CASE WHEN a.attidentity <> '' THEN ' identity' WHEN a.attgenerated <> '' THEN ' generated'
                     ELSE coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '') END)
         FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        "SELECT format('  constraint %s %s', conname, pg_get_constraintdef(oid))
         FROM pg_constraint WHERE conrelid = $1 AND contype <> 't' ORDER BY conname",
        "SELECT '  ' || pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE i.indrelid = $1 AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
         ORDER BY c.relname",
        "SELECT '  ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal ORDER BY tgname",
    ];
    let mut text = String::new();
    for table in client.query(tables, &[]).await.unwrap() {
        writeln!(text, "{}", table.get::<_, &str>(1)).unwrap();
        for part in parts {
            for row in client.query(part, &[&table.get::<_, u32>(0)]).await.unwrap() {
                writeln!(text, "{}", row.get::<_, &str>(0)).unwrap();
            }
        }
    }
    let functions = "SELECT format('function %s(%s) returns %s', proname, pg_get_function_identity_arguments(oid),
                     pg_get_function_result(oid)) FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1";
    for row in client.query(functions, &[]).await.unwrap() {
        writeln!(text, "{}", row.get::<_, &str>(0)).unwrap();
    }
    text
}
