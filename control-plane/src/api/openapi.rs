//! The OpenAPI document: generated from the handlers, completed with what is the same for all of them, served, and shown as
//! a page. Refuses to describe anything by hand that the code knows.

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, PathItem, Ref, RefOr, ResponseBuilder, SecurityRequirement};
use utoipa::{Modify, OpenApi as _};

use crate::api::problem::{FieldError, Problem};
use crate::api::state::AppState;

mod fields;
mod reference;

#[cfg(test)]
mod tests;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "API-HUB control plane",
        description = "Publish APIs, sell plans, hand out keys. Errors are RFC 9457 problems; lists are cursor pages. Wherever an access token is asked for, a browser may show its session's cookie instead.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    servers((url = "/", description = "This control plane")),
    components(schemas(Problem, FieldError)),
    modifiers(&CredentialSchemes),
)]
struct Base;

struct CredentialSchemes;

impl Modify for CredentialSchemes {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An access token: `apihub_pat_…`, made at /v1/access-tokens."))
            .build();
        components.add_security_scheme("access_token", SecurityScheme::Http(token));
        let cookie = ApiKeyValue::with_description(
            "__Host-apihub_session",
            "A session, made at /v1/sessions. Mutations also need an Origin header of this control plane.",
        );
        components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    }
}

/// What the routes are added to.
pub fn base() -> OpenApi {
    Base::openapi()
}

/// Adds what every operation shares: a summary, that errors are problems, and that credentials are needed unless it says otherwise.
pub fn complete(mut document: OpenApi) -> OpenApi {
    fields::describe_bodies(&mut document);
    for item in document.paths.paths.values_mut() {
        for operation in operations_of(item) {
            fields::describe_parameters(operation);
            complete_operation(operation);
        }
    }
    document
}

fn operations_of(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let all = [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.options,
        &mut item.head,
        &mut item.patch,
        &mut item.trace,
    ];
    all.into_iter().filter_map(Option::as_mut)
}

fn complete_operation(operation: &mut Operation) {
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = ResponseBuilder::new()
        .description("A problem; its `code` says which.")
        .content("application/problem+json", problem)
        .build();
    operation.responses.responses.entry("default".to_owned()).or_insert(RefOr::T(response));
    if operation.summary.is_none() {
        operation.summary = operation.operation_id.as_deref().map(words_of);
    }
    // The description of the whole says that browsers show a session instead: programs that read this have tokens.
    let no_scopes: [&str; 0] = [];
    operation.security.get_or_insert_with(|| vec![SecurityRequirement::new("access_token", no_scopes)]);
}

/// `list_catalog` reads "List catalog".
fn words_of(operation_id: &str) -> String {
    let words = operation_id.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Serialized once: the document does not change while the process runs.
#[derive(Clone)]
struct Rendered {
    json: axum::body::Bytes,
    page: axum::body::Bytes,
}

pub fn routes(document: OpenApi) -> Router<AppState> {
    let document = complete(document);
    let json = document.to_pretty_json().unwrap_or_default();
    let value = serde_json::to_value(&document).unwrap_or_default();
    let rendered = Rendered { json: json.into(), page: reference::render(&value).into() };
    Router::new()
        // Until there is a dashboard.
        .route("/", get(async || Redirect::to("/v1/reference")))
        .route("/v1/openapi.json", get(show_document))
        .route("/v1/reference", get(show_reference))
        .with_state(rendered)
}

async fn show_document(State(rendered): State<Rendered>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], rendered.json).into_response()
}

async fn show_reference(State(rendered): State<Rendered>) -> Response {
    let policy = format!("default-src 'none'; style-src '{}'; frame-ancestors 'none'", reference::style_hash());
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(rendered.page)).into_response()
}
