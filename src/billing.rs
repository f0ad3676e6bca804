//! `apihub billing verify`: every line of issued invoices computed again from the billing record, and every difference told. Reads the
//! control plane's settings and its database; changes nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use control_plane::billing::verify::{Report, Selection, run};
use control_plane::settings::Settings;

#[derive(Args, Debug)]
pub struct Options {
    /// The control plane's settings file.
    #[arg(long, default_value = "config/control-plane.toml")]
    config: PathBuf,
    /// Only this invoice, by its id.
    #[arg(long, conflicts_with = "month")]
    invoice: Option<uuid::Uuid>,
    /// Only invoices of this month, as in 2026-11.
    #[arg(long)]
    month: Option<String>,
    /// Usage that came after its invoice, and that the next one will adjust, is told but is no difference.
    #[arg(long)]
    allow_late: bool,
}

pub async fn verify(options: &Options) -> anyhow::Result<ExitCode> {
    let settings = Settings::read_file(&options.config)?;
    let month = options.month.as_deref().map(parse_month).transpose()?;
    let report = run(&settings, Selection { invoice: options.invoice, month }).await?;
    tell(&report);
    let counts = |is_late: bool| !(is_late && options.allow_late);
    let differs = report.differences.iter().any(|difference| counts(difference.is_late_usage));
    Ok(if differs { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn parse_month(text: &str) -> anyhow::Result<jiff::civil::Date> {
    format!("{text}-01").parse().with_context(|| format!("'{text}' is no month; write it as in 2026-11"))
}

#[allow(clippy::print_stdout)] // The answer of a command goes to standard output.
fn tell(report: &Report) {
    for difference in &report.differences {
        let late = if difference.is_late_usage { " (late usage, to be adjusted on the next invoice)" } else { "" };
        println!("{}: {}{late}", difference.invoice, difference.what);
    }
    println!("{} invoices verified, {} differences", report.checked, report.differences.len());
}
