//! Issued invoices against the billing record: every one is rated again from terms and usage, and whatever differs is told. Trusts no
//! stored sum. Changes nothing.

use jiff::civil::Date;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::account::{AccountFault, rated_months};
use super::issue::fee_on;
use super::money::{Minor, of_micros};
use super::rating::ChargeKind;
use super::statement::RatedMonth;
use crate::domain::invoice::LineKind;
use crate::store::billing_months::{self, MonthRow};
use crate::store::invoices::{self, InvoiceRow, LineRow};
use crate::store::ratings::{self, Billed};
use crate::store::snapshot_rows::{begin_moment, end_moment};
use crate::store::{Store, StoreError, Transaction};

#[cfg(test)]
mod tests;

/// Invoices of one statement.
const PAGE: i64 = 100;

/// Which invoices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection {
    pub invoice: Option<Uuid>,
    pub month: Option<Date>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The number, or the id where it has none.
    pub invoice: String,
    pub what: String,
    /// More usage than was billed, and the next invoice of the pair is still to come: it will be adjusted there.
    pub is_late_usage: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub checked: u64,
    pub differences: Vec<Difference>,
}

pub async fn verify(store: &Store, selection: Selection) -> Result<Report, AccountFault> {
    let mut report = Report::default();
    let mut after = None;
    loop {
        let page = store.read("issued_invoices", |tx| {
            Box::pin(invoices::issued(tx, selection.invoice, selection.month, after, PAGE))
        });
        let page = page.await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        for invoice in &page {
            // One moment for each invoice, so that usage that arrives meanwhile does not look like a difference; and as long as it takes.
            let moment = begin_moment(store).await?;
            let found = verify_one(&moment, invoice).await?;
            end_moment(moment).await?;
            report.checked += 1;
            report.differences.extend(found);
        }
    }
    if selection.invoice.is_none() {
        let gaps = store.read("number_gaps", |tx| Box::pin(invoices::number_gaps(tx))).await?;
        let what = |publisher| format!("the numbers of publisher {publisher} have a gap");
        let told = gaps.into_iter().map(|publisher| Difference {
            invoice: "all".to_owned(),
            what: what(publisher),
            is_late_usage: false,
        });
        report.differences.extend(told);
    }
    Ok(report)
}

/// What is found about one invoice.
struct Findings<'a> {
    invoice: &'a InvoiceRow,
    found: Vec<Difference>,
}

impl Findings<'_> {
    fn add(&mut self, what: String, is_late_usage: bool) {
        let invoice = self.invoice.number.clone().unwrap_or_else(|| self.invoice.id.to_string());
        self.found.push(Difference { invoice, what, is_late_usage });
    }

    fn compare(&mut self, what: &str, recorded: Decimal, computed: Decimal) {
        if recorded != computed {
            self.add(format!("{what} is {recorded}, computed {computed}"), false);
        }
    }
}

async fn verify_one(tx: &Transaction<'_>, invoice: &InvoiceRow) -> Result<Vec<Difference>, AccountFault> {
    let lines = invoices::lines(tx, invoice.id).await?;
    let mut findings = Findings { invoice, found: Vec::new() };
    check_sums(tx, &mut findings, &lines).await?;
    let Some(month) = billing_months::get(tx, invoice.publisher, invoice.month).await? else {
        findings.add("its month is not known".to_owned(), false);
        return Ok(findings.found);
    };
    findings.compare_bounds(&month);
    let rated = rated_in_currency(tx, invoice, &month).await?;
    let billed = ratings::billed(tx, invoice.pair(), month.month).await?;
    for subscription in &rated {
        check_lines(&mut findings, &lines, subscription, &billed)?;
        check_billed(tx, &mut findings, subscription, &billed).await?;
    }
    let known = |line: &&LineRow| rated.iter().any(|rated| Some(rated.named.subscription) == line.subscription);
    let charges = lines.iter().filter(|line| !matches!(line.kind, LineKind::Credit | LineKind::Adjustment));
    for line in charges.filter(|line| !known(line)) {
        findings.add(format!("the line \"{}\" is for nothing that was held", line.description), false);
    }
    check_adjustments(tx, &mut findings, &lines).await?;
    Ok(findings.found)
}

impl Findings<'_> {
    fn compare_bounds(&mut self, month: &MonthRow) {
        if (self.invoice.period_start, self.invoice.period_end) != (month.starts_at, month.ends_at) {
            self.add("its period is not the publisher's month".to_owned(), false);
        }
    }
}

async fn rated_in_currency(
    tx: &Transaction<'_>,
    invoice: &InvoiceRow,
    month: &MonthRow,
) -> Result<Vec<RatedMonth>, AccountFault> {
    let rated = rated_months(tx, invoice.pair(), month).await?;
    Ok(rated.into_iter().filter(|(currency, _)| *currency == invoice.currency).map(|(_, rated)| rated).collect())
}

/// The total, the fee, and the credit that the ledger says was spent.
async fn check_sums(tx: &Transaction<'_>, findings: &mut Findings<'_>, lines: &[LineRow]) -> Result<(), AccountFault> {
    let invoice = findings.invoice;
    let is_credit = |line: &&LineRow| line.kind == LineKind::Credit;
    let total: Decimal = lines.iter().map(|line| line.amount).sum();
    let credit: Decimal = lines.iter().filter(is_credit).map(|line| line.amount).sum();
    findings.compare("the total", invoice.total, total);
    let charged = Minor::of_decimal(total - credit, &invoice.currency)?;
    let fee = fee_on(charged, invoice.fee_percent)?.decimal(&invoice.currency)?;
    findings.compare("the fee", invoice.fee, fee);
    findings.compare("the credit", credit, invoices::credit_spent(tx, invoice.id).await?);
    Ok(())
}

/// Each charge has its line. Where late usage was billed elsewhere, the overage of then cannot be told from the sums of now; the sum of
/// all that was billed can.
fn check_lines(
    findings: &mut Findings<'_>,
    lines: &[LineRow],
    rated: &RatedMonth,
    billed: &Billed,
) -> Result<(), AccountFault> {
    let currency = &findings.invoice.currency.clone();
    let billed = billed.of(rated.named.subscription);
    let own =
        |line: &&LineRow| line.subscription == Some(rated.named.subscription) && line.kind != LineKind::Adjustment;
    let here: Decimal = lines.iter().filter(own).map(|line| line.amount).sum();
    let is_whole = billed == here && Minor::of_decimal(billed, currency)? == rated.rated.total;
    for charge in &rated.rated.charges {
        let kind = match charge.kind {
            ChargeKind::Plan => LineKind::Plan,
            ChargeKind::Proration => LineKind::Proration,
            ChargeKind::Overage if is_whole => LineKind::Overage,
            ChargeKind::Overage => continue,
        };
        let quantity = of_micros(super::money::micros(charge.quantity).unwrap_or(0))?;
        let amount = charge.amount.decimal(currency)?;
        let is_it = |line: &&LineRow| {
            line.kind == kind
                && line.plan == Some(charge.plan)
                && line.unit_price == charge.unit_price
                && line.quantity == quantity
                && line.amount == amount
        };
        if !lines.iter().filter(own).any(|line| is_it(&line)) {
            let what = format!("no line says {} {} × {} = {amount}", kind.as_str(), charge.quantity, charge.unit_price);
            findings.add(what, false);
        }
    }
    Ok(())
}

/// All that invoices have charged for a subscription's month is what it comes to.
async fn check_billed(
    tx: &Transaction<'_>,
    findings: &mut Findings<'_>,
    rated: &RatedMonth,
    billed: &Billed,
) -> Result<(), AccountFault> {
    let invoice = findings.invoice;
    let billed = Minor::of_decimal(billed.of(rated.named.subscription), &invoice.currency)?;
    if billed != rated.rated.total {
        let is_late = billed < rated.rated.total
            && !invoices::has_later(tx, invoice.pair(), invoice.month, &invoice.currency).await?;
        let what = format!(
            "subscription {} was charged {} for {}, the record comes to {}",
            rated.named.subscription,
            billed.decimal(&invoice.currency)?,
            rated.month.strftime("%Y-%m"),
            rated.rated.total.decimal(&invoice.currency)?
        );
        findings.add(what, is_late);
    }
    Ok(())
}

/// An adjustment is right when, with it, the month that it corrects is.
async fn check_adjustments(
    tx: &Transaction<'_>,
    findings: &mut Findings<'_>,
    lines: &[LineRow],
) -> Result<(), AccountFault> {
    let invoice = findings.invoice;
    let mut months: Vec<Date> =
        lines.iter().filter(|line| line.kind == LineKind::Adjustment).filter_map(|line| line.month).collect();
    months.sort_unstable();
    months.dedup();
    for month in months {
        let Some(month) = billing_months::get(tx, invoice.publisher, month).await? else {
            findings.add(format!("it corrects {month}, which is no month of the publisher"), false);
            continue;
        };
        let billed = ratings::billed(tx, invoice.pair(), month.month).await?;
        for rated in rated_in_currency(tx, invoice, &month).await? {
            check_billed(tx, findings, &rated, &billed).await?;
        }
    }
    Ok(())
}

impl From<AccountFault> for VerifyFault {
    fn from(fault: AccountFault) -> VerifyFault {
        VerifyFault(fault.to_string())
    }
}

/// For the command line, which tells it and ends.
#[derive(Debug, thiserror::Error)]
#[error("the invoices cannot be verified: {0}")]
pub struct VerifyFault(String);

/// As the command does it: on the database of the settings, with a pool of its own.
pub async fn run(settings: &crate::settings::Settings, selection: Selection) -> Result<Report, VerifyFault> {
    let told = |error: String| VerifyFault(error);
    let metrics = crate::metrics::Metrics::new().map_err(|error| told(error.to_string()))?;
    let store =
        Store::connect(&settings.database, metrics).await.map_err(|error: StoreError| told(error.to_string()))?;
    Ok(verify(&store, selection).await?)
}
