//! What groups are called. Their meter ids came out of statements that are bound to whose usage is looked at.

use std::collections::HashMap;

use uuid::Uuid;

use super::super::{StoreError, Transaction};
use crate::domain::analytics::GroupBy;

/// A group's id and what people call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub id: Uuid,
    pub label: String,
}

/// By meter id. Status classes have no names.
pub async fn name_groups(
    tx: &Transaction<'_>,
    group: GroupBy,
    meter_ids: &[i64],
) -> Result<HashMap<i64, Name>, StoreError> {
    let sql = match group {
        GroupBy::Product => {
            "-- analytics.name_products\nSELECT meter_id, id, name AS label FROM api_products WHERE meter_id = ANY($1)"
        }
        GroupBy::Endpoint => {
            "-- analytics.name_endpoints
            SELECT meter_id, id, method || ' ' || path_pattern AS label FROM endpoints WHERE meter_id = ANY($1)"
        }
        GroupBy::Plan => {
            "-- analytics.name_plans
            SELECT meter_id, id, name || ' v' || version AS label FROM plans WHERE meter_id = ANY($1)"
        }
        GroupBy::Subscription => {
            "-- analytics.name_subscriptions
            SELECT s.meter_id, s.id, o.name || ' · ' || p.name AS label FROM subscriptions s
            JOIN organizations o ON o.id = s.organization_id JOIN api_products p ON p.id = s.product_id
            WHERE s.meter_id = ANY($1)"
        }
        GroupBy::Key => {
            "-- analytics.name_keys
            SELECT meter_id, id, name || ' (' || prefix || '…' || last_four || ')' AS label FROM api_keys
            WHERE meter_id = ANY($1)"
        }
        GroupBy::StatusClass => return Ok(HashMap::new()),
    };
    let rows = tx.query_cached(sql, &[&meter_ids]).await?;
    rows.iter()
        .map(|row| Ok((row.try_get("meter_id")?, Name { id: row.try_get("id")?, label: row.try_get("label")? })))
        .collect()
}
