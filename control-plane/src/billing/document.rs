//! An invoice as a document: CSV, HTML for print, PDF. All three say the same lines; names of any script come out as they were given or,
//! where no font has a letter, visibly as its code point. Refuses to compute: what is on the invoice is what is shown.

mod csv;
mod fonts;
mod html;
mod pdf;

#[cfg(test)]
mod tests;

pub use csv::csv;
pub use html::{html, style_hash};
pub use pdf::{PdfFault, pdf};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::domain::invoice::InvoiceStatus;
use crate::store::invoices::{InvoiceRow, LineRow};

/// What stands on every document of this installation.
const SIMULATED: &str = "Simulated: no money is owed or moved.";

/// An invoice with its lines.
#[derive(Clone, Debug)]
pub struct Document {
    pub invoice: InvoiceRow,
    pub lines: Vec<LineRow>,
}

impl Document {
    fn title(&self) -> String {
        match &self.invoice.number {
            Some(number) => format!("Invoice {number}"),
            None => "Draft invoice".to_owned(),
        }
    }

    fn status(&self) -> &'static str {
        match self.invoice.status {
            InvoiceStatus::Draft => "provisional draft",
            InvoiceStatus::Issued => "issued",
            InvoiceStatus::Paid => "paid",
            InvoiceStatus::Void => "void",
        }
    }

    /// Label and value, as they stand under the title.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let invoice = &self.invoice;
        let mut facts = vec![
            ("Status", self.status().to_owned()),
            ("From", invoice.publisher_name.clone()),
            ("To", invoice.consumer_name.clone()),
            ("Month", invoice.month.strftime("%Y-%m").to_string()),
            ("Period", format!("{} to {}", self.day(invoice.period_start), self.day(invoice.period_end))),
            ("Time zone", invoice.time_zone.clone()),
        ];
        let dates = [
            ("Issued", invoice.issued_at),
            ("Due", invoice.due_at),
            ("Paid", invoice.paid_at),
            ("Void since", invoice.voided_at),
        ];
        facts.extend(dates.into_iter().filter_map(|(label, at)| Some((label, self.day(at?)))));
        facts.extend(invoice.held_back.iter().map(|reason| ("Held back", reason.clone())));
        facts
    }

    /// A moment as a day and time of the publisher's zone; in UTC where this machine does not know it.
    fn day(&self, at: Timestamp) -> String {
        let zone = TimeZone::get(&self.invoice.time_zone).unwrap_or(TimeZone::UTC);
        at.to_zoned(zone).strftime("%Y-%m-%d %H:%M").to_string()
    }

    fn amount(&self, amount: rust_decimal::Decimal) -> String {
        let digits = crate::billing::money::digits(&self.invoice.currency);
        format!("{:.*}", usize::try_from(digits).unwrap_or(2), amount)
    }

    /// A price or a quantity keeps all its digits, but no zeros behind them.
    fn exact(amount: rust_decimal::Decimal) -> String {
        amount.normalize().to_string()
    }
}
