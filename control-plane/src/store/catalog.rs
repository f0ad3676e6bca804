//! The public catalog: products that anybody may find, with what they sell. Holds no target URL, no draft, no owner's data
//! beyond the organization's name; and answers what a consumer may subscribe to.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::plans::{self, PlanRow};
use super::row::closed_text;
use super::{After, StoreError, Transaction};
use crate::domain::plan::PlanStatus;
use crate::domain::product::{Approval, ProductStatus};

#[derive(Clone, Debug)]
pub struct ListedProduct {
    pub id: Uuid,
    pub slug: String,
    pub name: String,
    pub description: String,
    pub category: Option<String>,
    pub status: ProductStatus,
    pub approval: Approval,
    pub hosts: Vec<String>,
    pub organization_slug: String,
    pub organization_name: String,
    pub created_at: Timestamp,
}

/// A route as anybody may see it.
#[derive(Clone, Debug)]
pub struct ListedRoute {
    pub method: String,
    pub path_pattern: String,
    pub scope: Option<String>,
}

/// What a list is narrowed to.
#[derive(Clone, Copy, Debug, Default)]
pub struct CatalogFilter<'a> {
    pub category: Option<&'a str>,
    pub search: Option<&'a str>,
}

/// What a consumer would subscribe to, as the request is judged.
#[derive(Clone, Debug)]
pub struct Offer {
    pub product_id: Uuid,
    pub product_status: ProductStatus,
    pub approval: Approval,
    pub plan_status: PlanStatus,
    /// In whose months it is billed.
    pub publisher: Uuid,
}

macro_rules! columns {
    () => {
        "p.id, p.slug, p.name, p.description, p.category, p.status, p.approval, p.hosts, o.slug AS organization_slug, \
         o.name AS organization_name, p.created_at"
    };
}

macro_rules! public {
    () => {
        " FROM api_products p JOIN organizations o ON o.id = p.organization_id \
          WHERE p.visibility = 'public' AND p.status IN ('published', 'deprecated') AND o.status = 'active' "
    };
}

pub async fn list(
    tx: &Transaction<'_>,
    filter: CatalogFilter<'_>,
    after: Option<After>,
    limit: i64,
) -> Result<Vec<ListedProduct>, StoreError> {
    let sql = concat!(
        "-- catalog.list\nSELECT ",
        columns!(),
        public!(),
        "AND ($1::text IS NULL OR p.category = $1) \
         AND ($2::text IS NULL OR strpos(lower(p.name), lower($2)) > 0 OR strpos(lower(p.description), lower($2)) > 0) \
         AND ($3::timestamptz IS NULL OR (p.created_at, p.id) > ($3, $4)) ORDER BY p.created_at, p.id LIMIT $5"
    );
    let (created_at, id) = After::split(after);
    let rows = tx.query_cached(sql, &[&filter.category, &filter.search, &created_at, &id, &limit]).await?;
    rows.iter().map(ListedProduct::try_from).collect()
}

pub async fn get(tx: &Transaction<'_>, id: Uuid) -> Result<Option<ListedProduct>, StoreError> {
    let sql = concat!("-- catalog.get\nSELECT ", columns!(), public!(), "AND p.id = $1");
    tx.query_opt_cached(sql, &[&id]).await?.as_ref().map(ListedProduct::try_from).transpose()
}

/// The routes of a public product's live release: of its summary no more is read than the public may see.
pub async fn live_routes(tx: &Transaction<'_>, id: Uuid) -> Result<Vec<ListedRoute>, StoreError> {
    let sql = "-- catalog.live_routes\n\
        SELECT e.method, e.path_pattern, e.scope FROM api_products p JOIN releases r ON r.id = p.live_release_id, \
            ROWS FROM (jsonb_to_recordset(r.summary -> 'endpoints') AS (method text, path_pattern text, scope text)) \
                WITH ORDINALITY AS e (method, path_pattern, scope, place) \
        WHERE p.id = $1 AND p.visibility = 'public' AND p.status IN ('published', 'deprecated') ORDER BY e.place";
    let read = |row: &Row| -> Result<ListedRoute, StoreError> {
        Ok(ListedRoute {
            method: row.try_get("method")?,
            path_pattern: row.try_get("path_pattern")?,
            scope: row.try_get("scope")?,
        })
    };
    tx.query_cached(sql, &[&id]).await?.iter().map(read).collect()
}

pub async fn plans(tx: &Transaction<'_>, product: Uuid) -> Result<Vec<PlanRow>, StoreError> {
    let sql = concat!(
        "-- catalog.plans\nSELECT ",
        plans::columns!(),
        plans::joined!(),
        "WHERE s.product_id = $1 AND s.status = 'active' AND p.visibility = 'public' ORDER BY s.price, s.id"
    );
    tx.query_cached(sql, &[&product]).await?.iter().map(PlanRow::try_from).collect()
}

/// What the plan offers, if `user` may know of it: public, or of an organization that he is a member of. The lock lets
/// no publish, deprecation or retirement pass between this answer and the subscription.
pub async fn offer(tx: &Transaction<'_>, user: Uuid, plan: Uuid) -> Result<Option<Offer>, StoreError> {
    let sql = "-- catalog.offer\n\
        SELECT p.id AS product_id, p.status AS product_status, p.approval, s.status AS plan_status, o.id AS publisher \
        FROM plans s JOIN api_products p ON p.id = s.product_id JOIN organizations o ON o.id = p.organization_id \
        WHERE s.id = $1 AND o.status = 'active' AND p.status IN ('published', 'deprecated') \
            AND (p.visibility = 'public' OR EXISTS (SELECT FROM organization_members m \
                WHERE m.organization_id = p.organization_id AND m.user_id = $2)) \
        FOR SHARE OF p, s";
    let Some(row) = tx.query_opt_cached(sql, &[&plan, &user]).await? else { return Ok(None) };
    Ok(Some(Offer {
        product_id: row.try_get("product_id")?,
        product_status: closed_text(&row, "product_status", ProductStatus::parse)?,
        approval: closed_text(&row, "approval", Approval::parse)?,
        plan_status: closed_text(&row, "plan_status", PlanStatus::parse)?,
        publisher: row.try_get("publisher")?,
    }))
}

/// Slug and currency of the organization that publishes.
pub async fn publisher(tx: &Transaction<'_>, organization: Uuid) -> Result<(String, String), StoreError> {
    let sql = "-- catalog.publisher\nSELECT slug, currency::text AS currency FROM organizations WHERE id = $1";
    let row = tx.query_one_cached(sql, &[&organization]).await?;
    Ok((row.try_get("slug")?, row.try_get("currency")?))
}

impl TryFrom<&Row> for ListedProduct {
    type Error = StoreError;
    fn try_from(row: &Row) -> Result<Self, StoreError> {
        Ok(ListedProduct {
            id: row.try_get("id")?,
            slug: row.try_get("slug")?,
            name: row.try_get("name")?,
            description: row.try_get("description")?,
            category: row.try_get("category")?,
            status: closed_text(row, "status", ProductStatus::parse)?,
            approval: closed_text(row, "approval", Approval::parse)?,
            hosts: row.try_get("hosts")?,
            organization_slug: row.try_get("organization_slug")?,
            organization_name: row.try_get("organization_name")?,
            created_at: row.try_get("created_at")?,
        })
    }
}
