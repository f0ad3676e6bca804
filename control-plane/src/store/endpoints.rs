//! `endpoints`: the draft routes of a product. What gateways serve is a release; these rows change nothing until a publish.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::row::closed_text;
use super::{After, StoreError, Transaction, Values};
use crate::domain::endpoint::{EndpointTerms, UpstreamHttp};

#[derive(Clone, Debug)]
pub struct EndpointRow {
    pub id: Uuid,
    pub meter_id: i64,
    pub product_id: Uuid,
    pub method: String,
    pub path_pattern: String,
    pub target_url: String,
    pub scope: Option<String>,
    pub connect_timeout_ms: i32,
    pub read_timeout_ms: i32,
    pub write_timeout_ms: i32,
    pub total_timeout_ms: Option<i32>,
    pub retries: i16,
    pub upstream_http: UpstreamHttp,
    pub retired_at: Option<Timestamp>,
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Whose an endpoint is, and of which product.
#[derive(Clone, Copy, Debug)]
pub struct EndpointOwner {
    pub organization: Uuid,
    pub product: Uuid,
}

/// What a list is narrowed to.
#[derive(Clone, Copy, Debug, Default)]
pub struct EndpointFilter<'a> {
    pub method: Option<&'a str>,
    /// Without it, retired endpoints are left out.
    pub with_retired: bool,
}

macro_rules! columns {
    () => {
        "e.id, e.meter_id, e.product_id, e.method, e.path_pattern, e.target_url, e.scope, e.connect_timeout_ms, \
         e.read_timeout_ms, e.write_timeout_ms, e.total_timeout_ms, e.retries, e.upstream_http, e.retired_at, e.version, \
         e.created_at, e.updated_at"
    };
}

pub async fn owner_of(tx: &Transaction<'_>, id: Uuid) -> Result<Option<EndpointOwner>, StoreError> {
    let sql = "-- endpoints.owner_of\n\
        SELECT p.organization_id, p.id FROM endpoints e JOIN api_products p ON p.id = e.product_id WHERE e.id = $1";
    let Some(row) = tx.query_opt_cached(sql, &[&id]).await? else { return Ok(None) };
    Ok(Some(EndpointOwner { organization: row.try_get("organization_id")?, product: row.try_get("id")? }))
}

pub async fn insert(
    tx: &Transaction<'_>,
    product: Uuid,
    id: Uuid,
    terms: &EndpointTerms,
) -> Result<EndpointRow, StoreError> {
    let sql = concat!(
        "-- endpoints.insert\n\
         INSERT INTO endpoints AS e (id, product_id, method, path_pattern, target_url, scope, connect_timeout_ms, \
             read_timeout_ms, write_timeout_ms, total_timeout_ms, retries, upstream_http) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING ",
        columns!()
    );
    let row = tx
        .query_one_cached(
            sql,
            &[
                &id,
                &product,
                &terms.method,
                &terms.path_pattern,
                &terms.target_url,
                &terms.scope.as_ref().map(|scope| scope.as_str()),
                &terms.connect_timeout_ms,
                &terms.read_timeout_ms,
                &terms.write_timeout_ms,
                &terms.total_timeout_ms,
                &terms.retries,
                &terms.upstream_http.as_str(),
            ],
        )
        .await?;
    EndpointRow::try_from(&row)
}

pub async fn get(tx: &Transaction<'_>, organization: Uuid, id: Uuid) -> Result<Option<EndpointRow>, StoreError> {
    let sql = concat!(
        "-- endpoints.get\nSELECT ",
        columns!(),
        " FROM endpoints e JOIN api_products p ON p.id = e.product_id WHERE e.id = $1 AND p.organization_id = $2"
    );
    tx.query_opt_cached(sql, &[&id, &organization]).await?.as_ref().map(EndpointRow::try_from).transpose()
}

pub async fn lock(tx: &Transaction<'_>, organization: Uuid, id: Uuid) -> Result<Option<EndpointRow>, StoreError> {
    let sql = concat!(
        "-- endpoints.lock\nSELECT ",
        columns!(),
        " FROM endpoints e JOIN api_products p ON p.id = e.product_id \
          WHERE e.id = $1 AND p.organization_id = $2 FOR UPDATE OF e"
    );
    tx.query_opt_cached(sql, &[&id, &organization]).await?.as_ref().map(EndpointRow::try_from).transpose()
}

pub async fn list(
    tx: &Transaction<'_>,
    organization: Uuid,
    product: Uuid,
    filter: EndpointFilter<'_>,
    after: Option<After>,
    limit: i64,
) -> Result<Vec<EndpointRow>, StoreError> {
    let sql = concat!(
        "-- endpoints.list\nSELECT ",
        columns!(),
        " FROM endpoints e JOIN api_products p ON p.id = e.product_id \
          WHERE e.product_id = $1 AND p.organization_id = $2 AND ($3::text IS NULL OR e.method = $3) \
          AND ($4 OR e.retired_at IS NULL) \
          AND ($5::timestamptz IS NULL OR (e.created_at, e.id) > ($5, $6)) \
          ORDER BY e.created_at, e.id LIMIT $7"
    );
    let (created_at, id) = After::split(after);
    let values: Values<'_> = &[&product, &organization, &filter.method, &filter.with_retired, &created_at, &id, &limit];
    tx.query_cached(sql, values).await?.iter().map(EndpointRow::try_from).collect()
}

/// Everything that a release is compiled from, in a stable order.
pub async fn list_draft(
    tx: &Transaction<'_>,
    organization: Uuid,
    product: Uuid,
) -> Result<Vec<EndpointRow>, StoreError> {
    let sql = concat!(
        "-- endpoints.list_draft\nSELECT ",
        columns!(),
        " FROM endpoints e JOIN api_products p ON p.id = e.product_id \
          WHERE e.product_id = $1 AND p.organization_id = $2 AND e.retired_at IS NULL ORDER BY e.created_at, e.id"
    );
    tx.query_cached(sql, &[&product, &organization]).await?.iter().map(EndpointRow::try_from).collect()
}

pub async fn count_draft(tx: &Transaction<'_>, product: Uuid) -> Result<i64, StoreError> {
    let sql =
        "-- endpoints.count_draft\nSELECT count(*) AS n FROM endpoints WHERE product_id = $1 AND retired_at IS NULL";
    Ok(tx.query_one_cached(sql, &[&product]).await?.try_get("n")?)
}

pub async fn update(tx: &Transaction<'_>, id: Uuid, terms: &EndpointTerms) -> Result<EndpointRow, StoreError> {
    let sql = concat!(
        "-- endpoints.update\n\
         UPDATE endpoints AS e SET method = $2, path_pattern = $3, target_url = $4, scope = $5, connect_timeout_ms = $6, \
             read_timeout_ms = $7, write_timeout_ms = $8, total_timeout_ms = $9, retries = $10, upstream_http = $11 \
         WHERE e.id = $1 AND e.retired_at IS NULL RETURNING ",
        columns!()
    );
    let row = tx
        .query_one_cached(
            sql,
            &[
                &id,
                &terms.method,
                &terms.path_pattern,
                &terms.target_url,
                &terms.scope.as_ref().map(|scope| scope.as_str()),
                &terms.connect_timeout_ms,
                &terms.read_timeout_ms,
                &terms.write_timeout_ms,
                &terms.total_timeout_ms,
                &terms.retries,
                &terms.upstream_http.as_str(),
            ],
        )
        .await?;
    EndpointRow::try_from(&row)
}

/// For a product that was ever released: usage may be counted under the endpoint.
pub async fn retire(tx: &Transaction<'_>, id: Uuid) -> Result<EndpointRow, StoreError> {
    let sql = concat!(
        "-- endpoints.retire\nUPDATE endpoints AS e SET retired_at = coalesce(e.retired_at, now()) WHERE e.id = $1 RETURNING ",
        columns!()
    );
    EndpointRow::try_from(&tx.query_one_cached(sql, &[&id]).await?)
}

/// For a product that never was.
pub async fn delete(tx: &Transaction<'_>, id: Uuid) -> Result<(), StoreError> {
    let sql = "-- endpoints.delete\nDELETE FROM endpoints WHERE id = $1";
    StoreError::expect_one("endpoints.delete", tx.execute_cached(sql, &[&id]).await?)
}

impl TryFrom<&Row> for EndpointRow {
    type Error = StoreError;
    fn try_from(row: &Row) -> Result<Self, StoreError> {
        Ok(EndpointRow {
            id: row.try_get("id")?,
            meter_id: row.try_get("meter_id")?,
            product_id: row.try_get("product_id")?,
            method: row.try_get("method")?,
            path_pattern: row.try_get("path_pattern")?,
            target_url: row.try_get("target_url")?,
            scope: row.try_get("scope")?,
            connect_timeout_ms: row.try_get("connect_timeout_ms")?,
            read_timeout_ms: row.try_get("read_timeout_ms")?,
            write_timeout_ms: row.try_get("write_timeout_ms")?,
            total_timeout_ms: row.try_get("total_timeout_ms")?,
            retries: row.try_get("retries")?,
            upstream_http: closed_text(row, "upstream_http", UpstreamHttp::parse)?,
            retired_at: row.try_get("retired_at")?,
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}
