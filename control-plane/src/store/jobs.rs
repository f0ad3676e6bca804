//! `background_jobs`: one row per job, for operators; and the fence: a run begins and ends here only while nobody has begun
//! after it. Where there is no Redis, it is also where a run is taken.

use std::time::Duration;

use tokio_postgres::Row;

use super::{Store, StoreError};

/// As `background_jobs.error` holds it, in characters.
const ERROR_CHARS_MAX: usize = 2_000;

#[derive(Clone, Debug)]
pub struct JobRow {
    pub name: String,
    pub runs: i64,
    pub failures: i64,
    pub error: Option<String>,
}

/// Notes that a run begins. Answers the newest fence where another has begun after this one was taken.
pub async fn begin_job(store: &Store, name: &str, fence: i64, holder: &str) -> Result<Option<i64>, StoreError> {
    let sql = "-- begin_job
        INSERT INTO background_jobs AS j (name, fence, holder, runs) VALUES ($1, $2, $3, 1)
        ON CONFLICT (name) DO UPDATE SET fence = excluded.fence, holder = excluded.holder, started_at = now(), finished_at = NULL,
            runs = j.runs + 1 WHERE j.fence < excluded.fence";
    let newest = "-- find_fence\nSELECT fence FROM background_jobs WHERE name = $1";
    store
        .run_tx("begin_job", |tx| {
            Box::pin(async move {
                match tx.execute_cached(sql, &[&name, &fence, &holder]).await? {
                    0 => Ok(Some(tx.query_one_cached(newest, &[&name]).await?.try_get(0)?)),
                    _ => Ok(None),
                }
            })
        })
        .await
}

/// Takes a run that is due, and begins it: after `interval` since the last one ended, after `retry` if that failed, and after
/// `lease` if it never ended. Answers its fence.
pub async fn take_job(
    store: &Store,
    name: &str,
    holder: &str,
    [interval, retry, lease]: [Duration; 3],
) -> Result<Option<i64>, StoreError> {
    let sql = "-- take_job
        INSERT INTO background_jobs AS j (name, fence, holder, runs)
        VALUES ($1, (extract(epoch FROM now()) * 1000)::bigint, $2, 1)
        ON CONFLICT (name) DO UPDATE SET fence = greatest(j.fence + 1, excluded.fence), holder = excluded.holder,
            started_at = now(), finished_at = NULL, runs = j.runs + 1
        WHERE CASE WHEN j.finished_at IS NULL THEN j.started_at + make_interval(secs => $5) <= now()
                   WHEN j.error IS NULL THEN j.finished_at + make_interval(secs => $3) <= now()
                   ELSE j.finished_at + make_interval(secs => $4) <= now() END
        RETURNING fence";
    let (interval, retry, lease) = (interval.as_secs_f64(), retry.as_secs_f64(), lease.as_secs_f64());
    store
        .run_tx("take_job", |tx| {
            Box::pin(async move {
                let row = tx.query_opt_cached(sql, &[&name, &holder, &interval, &retry, &lease]).await?;
                Ok(row.map(|row| row.try_get(0)).transpose()?)
            })
        })
        .await
}

/// Notes how a run ended, unless another has begun since.
pub async fn end_job(
    store: &Store,
    name: &str,
    fence: i64,
    elapsed: Duration,
    error: Option<&str>,
) -> Result<(), StoreError> {
    let sql = "-- end_job
        UPDATE background_jobs SET finished_at = now(), duration_ms = $3, error = $4,
            succeeded_at = CASE WHEN $4::text IS NULL THEN now() ELSE succeeded_at END,
            failures = failures + CASE WHEN $4::text IS NULL THEN 0 ELSE 1 END
        WHERE name = $1 AND fence = $2";
    let elapsed_ms = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
    let error: Option<String> = error.map(|text| text.chars().filter(|c| *c != '\0').take(ERROR_CHARS_MAX).collect());
    store
        .run_tx("end_job", |tx| {
            let error = &error;
            Box::pin(async move { tx.execute_cached(sql, &[&name, &fence, &elapsed_ms, error]).await.map(|_| ()) })
        })
        .await
}

pub async fn list_jobs(store: &Store) -> Result<Vec<JobRow>, StoreError> {
    let sql = "-- list_jobs\nSELECT name, runs, failures, error FROM background_jobs ORDER BY name";
    let rows = store.read("list_jobs", |tx| Box::pin(async move { tx.query_cached(sql, &[]).await })).await?;
    let read = |row: &Row| -> Result<JobRow, StoreError> {
        Ok(JobRow {
            name: row.try_get("name")?,
            runs: row.try_get("runs")?,
            failures: row.try_get("failures")?,
            error: row.try_get("error")?,
        })
    };
    rows.iter().map(read).collect()
}
