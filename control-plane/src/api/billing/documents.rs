//! Invoices as documents: CSV for spreadsheets, HTML for print, PDF to keep. Who may read the invoice may have them. Refuses scripts in
//! the print view: its policy allows its own style and nothing else.

use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse as _, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::invoices::load;
use crate::api::auth::Caller;
use crate::api::extract::Path;
use crate::api::problem::ApiError;
use crate::api::state::AppState;
use crate::billing::document::{self, Document};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(show_invoice_csv))
        .routes(routes!(show_invoice_html))
        .routes(routes!(show_invoice_pdf))
}

#[utoipa::path(get, path = "/v1/invoices/{id}/csv", tag = "billing", params(("id" = Uuid, Path)),
    responses((status = 200, body = String, content_type = "text/csv")))]
async fn show_invoice_csv(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Response, ApiError> {
    let document = read(&state, &caller, id).await?;
    Ok(answer("text/csv; charset=utf-8", &attachment(&document, "csv"), document::csv(&document).into_bytes()))
}

#[utoipa::path(get, path = "/v1/invoices/{id}/html", tag = "billing", params(("id" = Uuid, Path)),
    description = "For print.", responses((status = 200, body = String, content_type = "text/html")))]
async fn show_invoice_html(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Response, ApiError> {
    let document = read(&state, &caller, id).await?;
    let policy = format!("default-src 'none'; style-src '{}'; frame-ancestors 'none'", document::style_hash());
    let mut response = answer("text/html; charset=utf-8", "inline", document::html(&document).into_bytes());
    if let Ok(policy) = policy.parse() {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    Ok(response)
}

#[utoipa::path(get, path = "/v1/invoices/{id}/pdf", tag = "billing", params(("id" = Uuid, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "application/pdf")))]
async fn show_invoice_pdf(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Response, ApiError> {
    let document = read(&state, &caller, id).await?;
    let name = attachment(&document, "pdf");
    // Fonts are subset and pages laid out: work for a thread that may be busy.
    let made = tokio::task::spawn_blocking(move || document::pdf(&document)).await;
    let bytes = made.map_err(|error| ApiError::internal(error.to_string()))?;
    let bytes = bytes.map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(answer("application/pdf", &name, bytes))
}

async fn read(state: &AppState, caller: &Caller, id: Uuid) -> Result<Document, ApiError> {
    let (invoice, lines, _) = load(state, caller, id).await?;
    Ok(Document { invoice, lines })
}

/// Numbers are ASCII; a draft has none.
fn attachment(document: &Document, extension: &str) -> String {
    let name = document.invoice.number.as_deref().unwrap_or("draft");
    format!("attachment; filename=\"{name}.{extension}\"")
}

fn answer(kind: &'static str, disposition: &str, body: Vec<u8>) -> Response {
    let headers: [(HeaderName, String); 3] = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CONTENT_DISPOSITION, disposition.to_owned()),
        (header::CACHE_CONTROL, "private, no-store".to_owned()),
    ];
    (headers, body).into_response()
}
