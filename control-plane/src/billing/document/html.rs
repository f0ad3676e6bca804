//! An invoice for print: one page without script, and nothing from elsewhere. Refuses to put a person's text into it unescaped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::{Document, SIMULATED};

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}\
h1{font-size:1.5rem;margin:0 0 1rem}dl{display:grid;grid-template-columns:8rem 1fr;gap:.15rem .75rem;margin:0 0 1.5rem}dt{color:#555}\
dd{margin:0}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .5rem;border-bottom:1px solid #ddd;\
vertical-align:top}.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}tfoot td{font-weight:600;\
border-bottom:0;border-top:2px solid #111}.s{margin-top:2rem;padding:.5rem .75rem;border:1px solid #b58900;color:#6b5200}\
td,dd{overflow-wrap:anywhere}.n{overflow-wrap:normal}@media print{body{margin:0;max-width:none}}";

/// What the page's policy allows: this very style.
pub fn style_hash() -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(STYLE.as_bytes())))
}

pub fn html(document: &Document) -> String {
    let title = escape(&document.title());
    let facts: String = document
        .facts()
        .iter()
        .map(|(label, value)| format!("<dt>{label}</dt><dd dir=\"auto\">{}</dd>", escape(value)))
        .collect();
    let lines: String = document.lines.iter().map(|line| row(document, line)).collect();
    let currency = escape(&document.invoice.currency);
    let total = document.amount(document.invoice.total);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>{STYLE}</style></head><body>\
         <h1>{title}</h1><dl>{facts}</dl><table><thead><tr><th scope=\"col\">Description</th>\
         <th scope=\"col\" class=\"n\">Quantity</th><th scope=\"col\" class=\"n\">Unit price</th>\
         <th scope=\"col\" class=\"n\">Amount ({currency})</th></tr></thead><tbody>{lines}</tbody>\
         <tfoot><tr><td colspan=\"3\">Total</td><td class=\"n\">{total} {currency}</td></tr></tfoot></table>\
         <p class=\"s\">{SIMULATED}</p></body></html>\n"
    )
}

fn row(document: &Document, line: &crate::store::invoices::LineRow) -> String {
    let quantity = Document::exact(line.quantity);
    let (unit_price, amount) = (Document::exact(line.unit_price), document.amount(line.amount));
    format!(
        "<tr><td dir=\"auto\">{}</td><td class=\"n\">{quantity}</td><td class=\"n\">{unit_price}</td><td class=\"n\">{amount}</td></tr>",
        escape(&line.description)
    )
}

/// For text and for attributes in double quotes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
