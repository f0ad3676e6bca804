//! An invoice for a spreadsheet (RFC 4180). Refuses to hand over a formula: a text that a spreadsheet would run begins with an apostrophe.

use super::Document;

/// What spreadsheets take for the beginning of a formula, in the widths that they know; and what they skip before one.
const FORMULA_STARTS: &[char] = &['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];
const HEADER: &[&str] = &[
    "invoice",
    "status",
    "month",
    "line",
    "kind",
    "for_month",
    "description",
    "quantity",
    "unit_price",
    "amount",
    "currency",
    "period_start",
    "period_end",
    "subscription_id",
    "plan_id",
];

pub fn csv(document: &Document) -> String {
    let invoice = &document.invoice;
    let mut text = String::new();
    row(&mut text, HEADER.iter().map(|name| (*name).to_owned()));
    let number = invoice.number.clone().unwrap_or_default();
    let month = invoice.month.strftime("%Y-%m").to_string();
    for (place, line) in (1..).zip(&document.lines) {
        let place: usize = place;
        row(
            &mut text,
            [
                safe(&number),
                document.status().to_owned(),
                month.clone(),
                place.to_string(),
                line.kind.as_str().to_owned(),
                line.month.map(|month| month.strftime("%Y-%m").to_string()).unwrap_or_default(),
                safe(&line.description),
                Document::exact(line.quantity),
                Document::exact(line.unit_price),
                document.amount(line.amount),
                invoice.currency.clone(),
                line.from.map(|at| at.to_string()).unwrap_or_default(),
                line.until.map(|at| at.to_string()).unwrap_or_default(),
                line.subscription.map(|id| id.to_string()).unwrap_or_default(),
                line.plan.map(|id| id.to_string()).unwrap_or_default(),
            ],
        );
    }
    let none = String::new;
    let before = [
        safe(&number),
        document.status().to_owned(),
        month,
        none(),
        "total".to_owned(),
        none(),
        none(),
        none(),
        none(),
    ];
    let after = [document.amount(invoice.total), invoice.currency.clone(), none(), none(), none(), none()];
    row(&mut text, before.into_iter().chain(after));
    text
}

/// A person's text, which must stay a text.
fn safe(text: &str) -> String {
    if text.trim_start_matches(' ').starts_with(FORMULA_STARTS) { format!("'{text}") } else { text.to_owned() }
}

fn row(text: &mut String, cells: impl IntoIterator<Item = String>) {
    for (place, cell) in cells.into_iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        if cell.contains(['"', ',', '\n', '\r']) {
            text.push('"');
            text.push_str(&cell.replace('"', "\"\""));
            text.push('"');
        } else {
            text.push_str(&cell);
        }
    }
    text.push_str("\r\n");
}
