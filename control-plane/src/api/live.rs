//! Live usage over a WebSocket, and one-time tickets for callers who cannot send a header. Refuses a browser that another
//! site's page drives, credentials in the address, and more connections than one user needs.

mod allow;
mod connection;
mod phrases;

#[cfg(test)]
mod tests;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use std::time::Instant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::auth::{self, Caller, Proof};
use crate::api::extract::Query;
use crate::api::problem::{ApiError, Code};
use crate::api::source::Source;
use crate::api::state::AppState;
use crate::domain::accounts::Scope;
use crate::store::live::{self as store, Credential};
use crate::tokens::{self, LIVE_TICKET_PREFIX, TOKEN_BYTES_MAX};

/// A ticket must be used within this time.
const TICKET_S: i32 = 30;
/// Tickets of one user that wait to be used.
const TICKETS_MAX: i64 = 20;
/// Longest message of a client, in bytes: a command and a topic.
pub(super) const MESSAGE_BYTES_MAX: usize = 4096;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(open)).routes(routes!(create_ticket))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LiveQuery {
    /// A one-time ticket, made at `/v1/live/tickets`, for callers who cannot send a header. Nothing else that is secret
    /// belongs into an address.
    ticket: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct TicketView {
    /// Good once, as `ticket` in the query of `/v1/live`.
    ticket: String,
    /// How long it may wait to be used.
    #[schema(example = 30)]
    expires_in_s: i32,
}

/// Whoever opens a live connection: as in REST, or by a ticket. A browser's cookie counts only for a page of our own.
struct Visitor(Caller);

impl FromRequestParts<AppState> for Visitor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Visitor, ApiError> {
        let Query(LiveQuery { ticket }) = Query::from_request_parts(parts, state).await?;
        if let Some(ticket) = ticket {
            return redeem(state, Source::of(parts, state), &ticket).await.map(Visitor);
        }
        let caller = Caller::from_request_parts(parts, state).await?;
        if caller.session_id().is_some() {
            auth::require_own_origin(&parts.headers, &state.settings)?;
        }
        Ok(Visitor(caller))
    }
}

/// Watch usage live
///
/// A WebSocket; every message is one JSON object with a `type`. Best effort and approximate: it is never billed. docs/API.md
/// shows each message.
///
/// You send `{"type":"subscribe","topic":"product:<id>:requests"}`, `{"type":"unsubscribe","topic":…}`, or
/// `{"type":"resnapshot","topic":…}`. A topic is a scope (`platform` for operators, `product:<id>`, `subscription:<id>`,
/// `organization:<id>:publisher`, `organization:<id>:consumer`) and a kind: `counters` (sums by second) or `requests` (one
/// row for each request).
///
/// You get `hello` and `state` (`live`, `stale` while the stream cannot be reached, or `off`), then for each topic a
/// `snapshot` with a `sequence` and the last minute, then `delta`s, each with the sequence after the last one. On a gap send
/// `resnapshot`. If you read too slowly, some deltas are dropped for you alone: `missed` says how many, and a new snapshot
/// follows. `closed` ends one topic (you may not see it any more), `error` answers a message that cannot be served.
#[utoipa::path(get, path = "/v1/live", tag = "live", operation_id = "open_live", params(LiveQuery),
    responses((status = 101, description = "The connection is a WebSocket now")))]
async fn open(
    State(state): State<AppState>,
    Visitor(caller): Visitor,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|rejection| {
        let detail = format!("This address speaks WebSocket only: {}", rejection.body_text());
        ApiError::new(Code::MalformedRequest, detail)
    })?;
    let seat = state.live.take_seat(caller.user_id);
    let seat = seat.map_err(|full| ApiError::new(Code::TooManyRequests, sentence(&full.to_string())))?;
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| Box::pin(connection::serve(socket, state, caller, seat))))
}

/// Make a ticket for a live connection
///
/// For a WebSocket client that can send neither a header nor a cookie of this origin. The connection may do what the caller
/// may, and ends with his session or token.
#[utoipa::path(post, path = "/v1/live/tickets", tag = "live", operation_id = "create_live_ticket",
    responses((status = 201, description = "Good once, and for a short time", body = TicketView)))]
async fn create_ticket(State(state): State<AppState>, caller: Caller) -> Result<Response, ApiError> {
    let minted = tokens::mint_live_ticket().map_err(|fault| ApiError::internal(fault.to_string()))?;
    let (user, credential, digest) = (caller.user_id, credential_of(&caller), &minted.digest);
    let written = state.store.run_tx("create_live_ticket", |tx| {
        Box::pin(store::insert_ticket(tx, digest, user, credential, (TICKET_S, TICKETS_MAX)))
    });
    if !written.await.map_err(ApiError::from)? {
        let detail = format!("{TICKETS_MAX} tickets wait to be used already. Use one, or wait {TICKET_S} s.");
        return Err(ApiError::new(Code::TooManyRequests, detail));
    }
    let view = TicketView { ticket: minted.reveal().to_owned(), expires_in_s: TICKET_S };
    Ok((StatusCode::CREATED, axum::Json(view)).into_response())
}

fn credential_of(caller: &Caller) -> Credential {
    match caller.proof {
        Proof::Session { id } => Credential::Session(id),
        Proof::Token { id, .. } => Credential::Token(id),
    }
}

/// Whom a ticket speaks for. Errors: 401, the same for a used, an old and a made-up one.
async fn redeem(state: &AppState, source: Source, ticket: &str) -> Result<Caller, ApiError> {
    let refused = || auth::count_bad_token(state, source);
    if ticket.len() > TOKEN_BYTES_MAX || !ticket.starts_with(LIVE_TICKET_PREFIX) {
        return Err(refused());
    }
    let throttled = state.throttles.check_token(source.address, Instant::now());
    throttled.map_err(|throttled| auth::refuse(state, throttled))?;
    let digest = &tokens::digest(ticket);
    let redeemed = state.store.run_tx("redeem_live_ticket", |tx| {
        Box::pin(async move {
            let Some(credential) = store::redeem_ticket(tx, digest).await? else { return Ok(None) };
            Ok::<_, ApiError>(store::find_holder(tx, credential).await?.map(|holder| (credential, holder)))
        })
    });
    let (credential, holder) = redeemed.await?.ok_or_else(refused)?;
    let proof = match credential {
        Credential::Session(id) => Proof::Session { id },
        Credential::Token(id) => {
            let (scopes, organization_id) = holder.token.unwrap_or_default();
            Proof::Token { id, scope: scopes.into_iter().max().unwrap_or(Scope::Read), organization_id }
        }
    };
    let (address, request_id) = (source.address, source.request_id);
    Ok(Caller { user_id: holder.user_id, is_admin: holder.is_admin, proof, address, request_id })
}

/// A message of a library as a sentence of ours.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}
