//! Metering, for operators: whether all rollups agree, what each node has sent and what is missing, and the writing off of what
//! will never come. Refuses everybody who is not an operator, and to write off a node that still reports.

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::auth::Caller;
use crate::api::extract::{Json, Path, Query};
use crate::api::page::{Cursor, Limit, Page, PageQuery};
use crate::api::problem::{ApiError, Code};
use crate::api::state::AppState;
use crate::api::write::{Prefer, Written, finish, to_value};
use crate::domain::fault::{Faults, Flaw};
use crate::domain::text::{NOTE_CHARS_MAX, Prose};
use crate::domain::usage::Producer;
use crate::store::After;
use crate::store::audit::{self, Target};
use crate::store::metering::{
    DayAudit, ProducerFilter, ProducerRow, Totals, find_producer, find_totals, list_audits, list_producers, write_off,
};

#[cfg(test)]
mod tests;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(show_audit)).routes(routes!(list)).routes(routes!(give_up))
}

#[derive(Serialize, ToSchema)]
struct AuditView {
    /// Whether nothing differs: every day and every epoch adds up.
    is_equal: bool,
    totals: Totals,
    /// The last five weeks, and older days that differ; newest first.
    days: Vec<DayAudit>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ProducersQuery {
    /// Rows on the page.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    /// `next_cursor` of the page before.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
    node_id: Option<Uuid>,
    /// Only epochs that hold a period back.
    #[serde(default)]
    unfinished: bool,
}

#[derive(Serialize, ToSchema)]
struct Gap {
    from: i64,
    to: i64,
}

/// One epoch of a node: what one spool has sent.
#[derive(Serialize, ToSchema)]
struct ProducerView {
    node_id: Uuid,
    epoch: Uuid,
    /// Null for a node that the feed does not know.
    node_name: Option<String>,
    /// `open`, `silent` (open, but nothing was heard for 5 minutes), `closed`, `written_off`.
    state: String,
    /// Batches up to this number are all counted; -1 where the first is missing.
    contiguous_seq: i64,
    highest_seq: i64,
    /// The first missing stretches between the two.
    gaps: Vec<Gap>,
    /// No request older than this comes any more.
    #[schema(value_type = Option<String>, format = DateTime)]
    low_watermark: Option<Timestamp>,
    /// Requests counted.
    events: i64,
    /// Of these, how many have a time that the clocks make unlikely.
    skewed_events: i64,
    #[schema(value_type = String, format = DateTime)]
    first_batch_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    last_batch_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    written_off_at: Option<Timestamp>,
    write_off_reason: Option<String>,
}

impl ProducerView {
    fn of(row: ProducerRow) -> ProducerView {
        ProducerView {
            node_id: row.producer.node,
            epoch: row.producer.epoch,
            state: state_of(&row).into(),
            node_name: row.node_name,
            contiguous_seq: row.contiguous_seq,
            highest_seq: row.highest_seq,
            gaps: row.gaps.into_iter().map(|(from, to)| Gap { from, to }).collect(),
            low_watermark: row.low_watermark,
            events: row.events,
            skewed_events: row.skewed_events,
            first_batch_at: row.first_batch_at,
            last_batch_at: row.last_batch_at,
            written_off_at: row.written_off_at,
            write_off_reason: row.write_off_reason,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WriteOff {
    /// Why nothing more will come, for the audit log.
    reason: String,
}

/// Audit the metering
///
/// Every day and every epoch from each table that counts it: all must be the same.
#[utoipa::path(get, path = "/v1/metering/audit", tag = "metering", operation_id = "audit_metering",
    responses((status = 200, description = "The last comparison of each day", body = AuditView)))]
async fn show_audit(State(state): State<AppState>, caller: Caller) -> Result<axum::Json<AuditView>, ApiError> {
    caller.require_admin()?;
    let both = state.store.read("audit_metering", |tx| {
        Box::pin(async move { Ok::<_, ApiError>((find_totals(tx).await?, list_audits(tx).await?)) })
    });
    let (totals, days) = both.await?;
    let is_equal = totals.epochs_differing == 0 && totals.days_differing == 0;
    Ok(axum::Json(AuditView { is_equal, totals, days }))
}

/// List metering nodes
///
/// Every epoch of every node, newest first: a process's spool, and a spool that was taken over.
#[utoipa::path(get, path = "/v1/metering/nodes", tag = "metering", operation_id = "list_metering_nodes",
    params(ProducersQuery), responses((status = 200, description = "A page", body = Page<ProducerView>)))]
async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<ProducersQuery>,
) -> Result<axum::Json<Page<ProducerView>>, ApiError> {
    caller.require_admin()?;
    let page = PageQuery { limit: query.limit, cursor: query.cursor };
    let filter = ProducerFilter { node: query.node_id, unfinished: query.unfinished };
    let (after, rows) = (page.after(), page.rows());
    let rows = state.store.read("list_producers", |tx| {
        Box::pin(async move { Ok::<_, ApiError>(list_producers(tx, filter, after, rows).await?) })
    });
    let key = |row: &ProducerRow| After { created_at: row.first_batch_at, id: row.producer.epoch };
    Ok(axum::Json(page.page(rows.await?, key, ProducerView::of)))
}

/// Write off an epoch
///
/// For a spool that is lost: what it has not sent holds no invoice back any more. What comes of it nevertheless is counted.
#[utoipa::path(post, path = "/v1/metering/nodes/{node}/{epoch}/write-off", tag = "metering",
    operation_id = "write_off_metering_node", request_body = WriteOff,
    params(("node" = Uuid, Path, description = "The node's id"), ("epoch" = Uuid, Path, description = "The epoch's id")),
    responses((status = 200, description = "Written off", body = ProducerView)))]
async fn give_up(
    State(state): State<AppState>,
    caller: Caller,
    Path((node, epoch)): Path<(Uuid, Uuid)>,
    Json(body): Json<WriteOff>,
) -> Result<Response, ApiError> {
    caller.require_admin()?;
    let (caller, reason) = (&caller, &parse_reason(&body.reason)?);
    let producer = Producer { node, epoch };
    let written = state.store.run_tx("write_off_metering_node", |tx| {
        Box::pin(async move {
            let find = || async { find_producer(tx, producer).await?.ok_or_else(|| ApiError::not_found("epoch")) };
            let before = find().await?;
            if state_of(&before) != "silent" {
                let detail =
                    format!("The epoch is {}. Only one that has gone silent can be written off.", state_of(&before));
                return Err(ApiError::new(Code::InvalidState, detail));
            }
            write_off(tx, producer, caller.user_id, reason.as_str()).await?;
            let (before, view) = (to_value(&ProducerView::of(before))?, ProducerView::of(find().await?));
            let target = Target { kind: "metering_epoch", id: epoch, organization_id: None };
            let after = Some(to_value(&view)?);
            audit::write(tx, &caller.actor(), "metering.write_off", target, Some(before), after).await?;
            Written::ok(&view)
        })
    });
    finish(&state, Prefer::default(), written.await?).await
}

fn parse_reason(text: &str) -> Result<Prose, Faults> {
    let mut faults = Faults::default();
    let text = text.trim();
    faults.check("/reason", !text.is_empty(), || Flaw::new("a reason is needed").mend("say what became of the node"));
    let reason = faults.take("/reason", Prose::parse(text, NOTE_CHARS_MAX));
    faults.finish(reason)
}

fn state_of(row: &ProducerRow) -> &'static str {
    match (row.written_off_at, row.is_closed, row.is_silent) {
        (Some(_), _, _) => "written_off",
        (None, true, _) => "closed",
        (None, false, true) => "silent",
        (None, false, false) => "open",
    }
}
