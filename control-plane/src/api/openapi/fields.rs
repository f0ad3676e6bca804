//! What the document says of the texts and numbers that requests carry: lengths, ranges, patterns, by the field's name, which
//! means the same in every body. The parsers in `domain` have the last word; a rule here is never narrower than theirs.
//! Refuses to describe answers.

use utoipa::Number;
use utoipa::openapi::schema::{AdditionalProperties, ArrayItems, Object, SchemaFormat, Type};
use utoipa::openapi::{OpenApi, RefOr, Schema, path::Operation};

use snapshot::record::{REQUESTS_PER_MINUTE_MAX, RETRIES_MAX, TIMEOUT_MS_MAX};

use crate::api::page::CURSOR_PATTERN;
use crate::domain::endpoint::CONNECT_TIMEOUT_MS_MAX;
use crate::domain::plan::{INCLUDED_REQUESTS_MAX, TRIAL_DAYS_MAX};
use crate::domain::product::{
    BODY_BYTES_MAX, CORS_ITEM_CHARS_MAX, CORS_MAX_AGE_S, REQUESTS_IN_FLIGHT_CEILING, UPSTREAM_CONNECTIONS_CEILING,
};
use crate::domain::text::{DESCRIPTION_CHARS_MAX, NOTE_CHARS_MAX};
use crate::passwords::{PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN};
use crate::store::fleet::FLEET_SIZE_MAX;

/// Any text but NUL, which Postgres cannot store.
const NO_NUL: &str = r"^[^\u0000]*$";
/// One line with something to see on it.
const LINE: &str = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$";
/// Lines; of the control characters only tabs and line ends.
const PROSE: &str = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$";
/// No control characters, and not one character all along.
const PASSWORD: &str = r"^(?!(.)\1*$)[^\u0000-\u001f\u007f-\u009f]+$";
const SLUG: &str = "^[a-z0-9]+(-[a-z0-9]+)*$";
const EMAIL: &str = r"^[^\s@\u0000-\u001f\u007f-\u009f]+@[^\s@\u0000-\u001f\u007f-\u009f]+$";
const CURRENCY: &str = "^[A-Z]{3}$";
const MONEY: &str = r"^[0-9]{1,14}(\.[0-9]{1,6})?$";
const HOST: &str = r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$";
const TIME_ZONE: &str = "^(UTC|[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)+)$";
const METHOD: &str = r"^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|\*)$";
const ABSOLUTE_PATH: &str = "^/[!-~]*$";
const WEB_ADDRESS: &str = "^[Hh][Tt][Tt][Pp][Ss]?://[!-~]+$";
const SCOPE: &str = "^[A-Za-z0-9:._/-]{1,64}$";
const STATUS_CLASS: &str = "^[1-5]xx$";
const VISIBLE: &str = "^[!-~]+$";
const IDEMPOTENCY_KEY: &str = "^[!-~]{1,255}$";

/// How a text or a number is bounded; `None` where it is not.
#[derive(Clone, Copy, Default)]
struct Rule {
    pattern: Option<&'static str>,
    chars: Option<(usize, usize)>,
    range: Option<(u64, u64)>,
}

fn text(pattern: &'static str, min: usize, max: usize) -> Rule {
    Rule { pattern: Some(pattern), chars: Some((min, max)), range: None }
}

/// Of a pattern that bounds the length itself.
fn form(pattern: &'static str) -> Rule {
    Rule { pattern: Some(pattern), ..Rule::default() }
}

fn range(min: u64, max: u64) -> Rule {
    Rule { range: Some((min, max)), ..Rule::default() }
}

/// By the field's name, for fields of bodies and for items of lists alike.
fn rule_of_field(name: &str) -> Rule {
    match name {
        "name" | "display_name" => text(LINE, 1, 120),
        "category" => text(LINE, 1, 60),
        "slug" => text(SLUG, 2, 40),
        "email" => text(EMAIL, 3, 254),
        "password" | "new" => text(PASSWORD, PASSWORD_CHARS_MIN, PASSWORD_CHARS_MAX),
        "description" => text(PROSE, 0, DESCRIPTION_CHARS_MAX),
        "note" => text(PROSE, 0, NOTE_CHARS_MAX),
        "reason" => text(PROSE, 1, NOTE_CHARS_MAX),
        "currency" => form(CURRENCY),
        "time_zone" => text(TIME_ZONE, 1, 64),
        "price" | "overage_price_per_1000" => form(MONEY),
        "host" => text(HOST, 3, 253),
        "method" => form(METHOD),
        "path_pattern" => text(ABSOLUTE_PATH, 1, snapshot::pattern::PATTERN_BYTES_MAX),
        "target_url" => text(WEB_ADDRESS, 8, snapshot::target::TARGET_BYTES_MAX),
        "scope" | "scopes" => form(SCOPE),
        "billable_statuses" => form(STATUS_CLASS),
        "origins" | "headers" | "exposed_headers" => text(VISIBLE, 1, CORS_ITEM_CHARS_MAX),
        "max_age_s" => range(0, u64::from(CORS_MAX_AGE_S)),
        "connect_timeout_ms" => range(1, u64::from(CONNECT_TIMEOUT_MS_MAX)),
        "read_timeout_ms" | "write_timeout_ms" | "total_timeout_ms" => range(1, u64::from(TIMEOUT_MS_MAX)),
        "retries" => range(0, u64::from(RETRIES_MAX)),
        "rate_limit" | "requests_per_minute" | "burst_limit" => range(1, u64::from(REQUESTS_PER_MINUTE_MAX)),
        "fleet_max" => range(1, u64::from(FLEET_SIZE_MAX.unsigned_abs())),
        "trial_days" => range(0, u64::from(TRIAL_DAYS_MAX)),
        "included_requests" => range(0, INCLUDED_REQUESTS_MAX),
        "body_bytes_max" => range(0, BODY_BYTES_MAX),
        "requests_in_flight_max" => range(1, u64::from(REQUESTS_IN_FLIGHT_CEILING)),
        "upstream_connections_max" => range(1, u64::from(UPSTREAM_CONNECTIONS_CEILING)),
        _ => form(NO_NUL),
    }
}

fn rule_of_parameter(name: &str) -> Rule {
    match name {
        "cursor" => form(CURSOR_PATTERN),
        "host" => text(HOST, 3, 253),
        "Idempotency-Key" => form(IDEMPOTENCY_KEY),
        // Any text is read: an unknown preference is ignored, an unknown tag is one that does not match.
        "If-Match" | "Prefer" => Rule::default(),
        _ => form(NO_NUL),
    }
}

/// Bodies are the schemas that let no unknown field in.
pub(super) fn describe_bodies(document: &mut OpenApi) {
    let Some(components) = document.components.as_mut() else { return };
    for schema in components.schemas.values_mut() {
        let RefOr::T(Schema::Object(body)) = schema else { continue };
        if !matches!(body.additional_properties.as_deref(), Some(AdditionalProperties::FreeForm(false))) {
            continue;
        }
        for (name, field) in &mut body.properties {
            apply(rule_of_field(name), field);
        }
    }
}

/// A header or a query has no null: what may be left out is just not required.
pub(super) fn describe_parameters(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        let Some(schema) = &mut parameter.schema else { continue };
        if let RefOr::T(Schema::Object(object)) = schema
            && is_a(object, &Type::String)
        {
            object.schema_type = Type::String.into();
        }
        apply(rule_of_parameter(&parameter.name), schema);
    }
}

fn apply(rule: Rule, schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Array(list)) => {
            if let ArrayItems::RefOrSchema(item) = &mut list.items {
                apply(rule, item);
            }
        }
        RefOr::T(Schema::Object(object)) => apply_to_object(rule, object),
        RefOr::T(_) | RefOr::Ref(_) => {}
    }
}

fn apply_to_object(rule: Rule, object: &mut Object) {
    let is_format = |format: &SchemaFormat| !matches!(format, SchemaFormat::Custom(_));
    let is_free_text = is_a(object, &Type::String) && !object.format.as_ref().is_some_and(is_format);
    if is_free_text && object.enum_values.is_none() {
        object.pattern = rule.pattern.map(str::to_owned);
        if let Some((min, max)) = rule.chars {
            object.min_length = Some(min);
            object.max_length = Some(max);
        }
    }
    if is_a(object, &Type::Integer)
        && let Some((min, max)) = rule.range
    {
        object.minimum = Some(Number::from(min));
        object.maximum = Some(Number::from(max));
    }
}

fn is_a(object: &Object, wanted: &Type) -> bool {
    use utoipa::openapi::schema::SchemaType;
    match &object.schema_type {
        SchemaType::Type(found) => found == wanted,
        SchemaType::Array(found) => found.contains(wanted),
        SchemaType::AnyValue => false,
    }
}
