//! The reference page: the OpenAPI document as plain HTML, without a script and without anything from elsewhere. Refuses to
//! put a text of the document into the page unescaped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;\
background:#fff}h2{margin-top:2.5rem;border-bottom:1px solid #ccc}article{margin:1rem 0;padding:.75rem 1rem;border:1px solid #ddd;\
border-radius:6px}h3{margin:0;font:600 1rem ui-monospace,monospace}.m{display:inline-block;min-width:4.5rem;color:#0a5}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .6rem .2rem 0;vertical-align:top;font-size:.9rem}\
code{font-family:ui-monospace,monospace}nav a{margin-right:1rem}@media(prefers-color-scheme:dark){body{background:#111;color:#eee}\
article{border-color:#333}.m{color:#4d9}a{color:#8bf}}";
/// In reading order.
const METHODS: &[&str] = &["get", "post", "put", "patch", "delete"];
/// References are followed this deep: the page names schemas instead of unfolding them.
const UNFOLD_MAX: usize = 2;

/// What the page's policy allows: this very style.
pub(super) fn style_hash() -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(STYLE.as_bytes())))
}

pub(super) fn render(document: &Value) -> String {
    let mut groups: Vec<(String, String)> = Vec::new();
    for (path, item) in fields(at(document, &["paths"])) {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                let tag = items(at(operation, &["tags"])).next().and_then(Value::as_str).unwrap_or("other").to_owned();
                let html = render_operation(document, method, path, operation);
                match groups.iter_mut().find(|(name, _)| *name == tag) {
                    Some((_, all)) => all.push_str(&html),
                    None => groups.push((tag, html)),
                }
            }
        }
    }
    let title = escape(at(document, &["info", "title"]).as_str().unwrap_or("Reference"));
    let about = escape(at(document, &["info", "description"]).as_str().unwrap_or(""));
    let links: String = groups.iter().map(|(tag, _)| format!("<a href=\"#{0}\">{0}</a>", escape(tag))).collect();
    let body: String = groups.iter().map(|(tag, html)| format!("<h2 id=\"{0}\">{0}</h2>{html}", escape(tag))).collect();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head>\
         <body><h1>{title}</h1><p>{about} <a href=\"/v1/openapi.json\">openapi.json</a></p><nav>{links}</nav>{body}</body></html>"
    )
}

fn render_operation(document: &Value, method: &str, path: &str, operation: &Value) -> String {
    let summary = at(operation, &["summary"]).as_str().unwrap_or("");
    let about = at(operation, &["description"]).as_str().unwrap_or("");
    let parameters: String =
        items(at(operation, &["parameters"])).map(|parameter| render_parameter(document, parameter)).collect();
    let body = at(operation, &["requestBody", "content", "application/json", "schema"]);
    let fields = render_fields(document, body, UNFOLD_MAX);
    let responses: String = fields_of_responses(operation);
    let table = match parameters.is_empty() && fields.is_empty() {
        true => String::new(),
        false => format!("<table>{parameters}{fields}</table>"),
    };
    format!(
        "<article><h3><span class=\"m\">{}</span> {}</h3><p>{}</p><p>{}</p>{table}<p>{responses}</p></article>",
        method.to_uppercase(),
        escape(path),
        escape(summary),
        escape(about),
    )
}

fn render_parameter(document: &Value, parameter: &Value) -> String {
    let place = at(parameter, &["in"]).as_str().unwrap_or("");
    let kind = kind_of(document, at(parameter, &["schema"]));
    row(
        at(parameter, &["name"]).as_str().unwrap_or(""),
        &format!("{place}, {kind}"),
        at(parameter, &["description"]).as_str().unwrap_or(""),
    )
}

fn render_fields(document: &Value, schema: &Value, unfold: usize) -> String {
    let schema = resolve(document, schema);
    if unfold == 0 {
        return String::new();
    }
    let required: Vec<&str> = items(at(schema, &["required"])).filter_map(Value::as_str).collect();
    fields(at(schema, &["properties"]))
        .map(|(name, field)| {
            let need = if required.contains(&name.as_str()) { "body, required, " } else { "body, " };
            row(
                name,
                &format!("{need}{}", kind_of(document, field)),
                at(field, &["description"]).as_str().unwrap_or(""),
            )
        })
        .collect()
}

fn fields_of_responses(operation: &Value) -> String {
    let all = fields(at(operation, &["responses"]));
    let shown = all.map(|(status, response)| {
        format!("<code>{}</code> {}", escape(status), escape(at(response, &["description"]).as_str().unwrap_or("")))
    });
    shown.collect::<Vec<_>>().join(" · ")
}

fn row(name: &str, kind: &str, about: &str) -> String {
    format!("<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>", escape(name), escape(kind), escape(about))
}

fn kind_of(document: &Value, schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|text| text.rsplit('/').next()) {
        let choices: Vec<&str> = items(at(resolve(document, schema), &["enum"])).filter_map(Value::as_str).collect();
        return if choices.is_empty() { name.to_owned() } else { choices.join(" | ") };
    }
    match (at(schema, &["type"]), at(schema, &["format"])) {
        (Value::String(kind), Value::String(format)) => format!("{kind} ({format})"),
        (Value::String(kind), _) => kind.clone(),
        (Value::Array(kinds), _) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | "),
        _ => items(at(schema, &["oneOf"])).map(|one| kind_of(document, one)).collect::<Vec<_>>().join(" | "),
    }
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|text| text.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).unwrap_or(&Value::Null),
        None => schema,
    }
}

/// A member deep inside, or null.
fn at<'a>(value: &'a Value, names: &[&str]) -> &'a Value {
    names.iter().try_fold(value, |value, name| value.get(name)).unwrap_or(&Value::Null)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
