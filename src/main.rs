//! The `apihub` program: one binary, several roles. Reads the command line and hands over; all logic lives elsewhere.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use apihub::logging::{self, LogShape};
use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: apihub::allocator::Allocator = apihub::allocator::Allocator;

/// API gateway and marketplace: publish an API behind the gateway, sell it in plans, get paid for what was used.
#[derive(Parser)]
#[command(name = "apihub", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything on this machine: Postgres, Redis, control plane, gateway, an echo upstream and a demo product.
    Up(apihub::up::Options),
    /// Run a gateway.
    Gateway {
        /// The settings file.
        #[arg(long, default_value = "config/gateway.toml")]
        config: PathBuf,
        /// Take over the listeners of a running gateway, which then gets SIGQUIT.
        #[arg(long)]
        upgrade: bool,
    },
    /// Run a control plane.
    ControlPlane {
        /// The settings file.
        #[arg(long, default_value = "config/control-plane.toml")]
        config: PathBuf,
    },
    /// Bring the database's schema up to date and end.
    Migrate {
        /// The control plane's settings file.
        #[arg(long, default_value = "config/control-plane.toml")]
        config: PathBuf,
    },
    /// What concerns invoices.
    Billing {
        #[command(subcommand)]
        command: BillingCommand,
    },
    /// Ask a process for its health; ends with 0 where the answer is 200. For container health checks.
    Health {
        /// For example `http://127.0.0.1:9090/readyz`.
        #[arg(long)]
        url: String,
    },
}

#[derive(Subcommand)]
enum BillingCommand {
    /// Rate issued invoices again from the billing record; ends with 1 where something differs.
    Verify(apihub::billing::Options),
}

fn main() -> ExitCode {
    // Both rings of TLS code in the tree ask for the process's provider; the choice is made once, here.
    let _already_chosen = rustls::crypto::ring::default_provider().install_default();
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("apihub: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Billing { command: BillingCommand::Verify(options) } => {
            return runtime()?.block_on(apihub::billing::verify(&options));
        }
        Command::Up(options) => apihub::up::run(options),
        Command::Gateway { config, upgrade } => {
            let mut settings = gateway::settings::Settings::read(&config)?;
            settings.upgrade = upgrade;
            let shape = match settings.log.format {
                gateway::settings::LogFormat::Text => LogShape::Text,
                gateway::settings::LogFormat::Json => LogShape::Json,
            };
            logging::start(shape, &settings.log.filter);
            gateway::server::run(settings)
        }
        Command::ControlPlane { config } => {
            let settings = control_plane::settings::Settings::read_file(&config)?;
            let shape = match settings.logs.format {
                control_plane::settings::LogFormat::Text => LogShape::Text,
                control_plane::settings::LogFormat::Json => LogShape::Json,
            };
            logging::start(shape, &settings.logs.filter);
            runtime()?.block_on(control_plane::server::run(settings))
        }
        Command::Migrate { config } => {
            let settings = control_plane::settings::Settings::read_file(&config)?;
            let report = runtime()?.block_on(control_plane::migrate::run(&settings.database.link()?))?;
            print_report(&report);
            Ok(())
        }
        Command::Health { url } => apihub::health::ask(&url),
    };
    done.map(|()| ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout)] // The answer of a command goes to standard output.
fn print_report(report: &control_plane::migrate::Report) {
    report.applied.iter().for_each(|migration| println!("applied {migration}"));
    println!("the schema is at version {}", report.version);
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}
