//! `apihub up`: the whole stack on one machine, with a demo product that answers at once. A table of contents: each step
//! lives in its own file. Not how a fleet is run: there, each role is started by itself.

pub mod data_dir;
pub mod echo;
pub mod part;
pub mod ports;
pub mod report;
pub mod seed;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use control_plane::postgres::Link;
use servers::{Durability, PrivatePostgres, PrivateRedis};

use crate::logging::{self, LogShape};
use crate::role_files::{ControlPlaneFile, GatewayFile, Secrets};
use data_dir::DataDir;
use part::{Part, Runs};
use report::UpReport;

/// How often the parts are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(50);
/// A role that is not ready by then will not be.
const READY_WAIT: Duration = Duration::from_secs(60);

#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Where everything is kept; a second start with the same directory keeps the data.
    #[arg(long, default_value = ".data", env = "APIHUB_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Port of the gateway (usually 8080; any free one where that is taken).
    #[arg(long)]
    pub gateway_port: Option<u16>,
    /// Port of the control plane (usually 8081).
    #[arg(long)]
    pub control_plane_port: Option<u16>,
    /// Port of the gateway's metrics and health (usually 9090).
    #[arg(long)]
    pub admin_port: Option<u16>,
    /// Port of the echo upstream (usually 8090).
    #[arg(long)]
    pub echo_port: Option<u16>,
    /// Use this Postgres instead of a private one.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Use this Redis instead of a private one.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<String>,
}

/// The addresses of one run.
struct Addresses {
    gateway: SocketAddr,
    control_plane: SocketAddr,
    admin: SocketAddr,
    echo: SocketAddr,
}

/// Runs until Ctrl-C or SIGTERM. The thread that calls must be the one that ends last: the parts end with it.
pub fn run(options: Options) -> anyhow::Result<()> {
    logging::start(LogShape::Text, "warn,apihub=info");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let stop = stop_on_signal(&runtime)?;
    let dir = DataDir::open(&options.data_dir)?;
    let addresses = Addresses::choose(&options)?;
    let mut parts = Vec::new();
    let result = start_all(&options, &dir, &addresses, &runtime, &mut parts, &stop);
    if let Ok(report) = &result {
        report.print();
        while !stop.load(Ordering::Relaxed) {
            parts.iter_mut().for_each(Part::watch);
            std::thread::sleep(WATCH_EVERY);
        }
    }
    // In reverse: the gateway drains first, the database ends last.
    parts.iter_mut().rev().for_each(Part::stop);
    match result {
        Err(error) if !stop.load(Ordering::Relaxed) => Err(error),
        _ => Ok(()),
    }
}

fn start_all(
    options: &Options,
    dir: &DataDir,
    addresses: &Addresses,
    runtime: &tokio::runtime::Runtime,
    parts: &mut Vec<Part>,
    stop: &AtomicBool,
) -> anyhow::Result<UpReport> {
    let database_url = start_postgres(options, dir, parts)?;
    let redis_url = start_redis(options, dir, parts)?;
    let database = Link::read(&database_url, None)?;
    runtime.block_on(seed::ensure_database(&database))?;
    runtime.block_on(control_plane::migrate::run(&database))?;
    runtime.spawn(echo::serve(addresses.echo));

    let secrets = Secrets {
        feed_token: dir.secret("feed-token", random_secret)?,
        database_url: database_url.clone(),
        redis_url: redis_url.clone(),
    };
    let feed = format!("unix:{}", dir.feed_socket().display());
    let allow = format!("127.0.0.1/32:{}", addresses.echo.port());
    let control_plane = ControlPlaneFile {
        listen: addresses.control_plane,
        feed_listen: feed.clone(),
        gateway_url: format!("http://{}", addresses.gateway),
        upstream_allow: vec![allow.clone()],
    };
    let file = dir.path().join("run/control-plane.toml");
    dir.write_private(&file, &control_plane.to_toml())?;
    parts.push(role("control-plane", file, secrets.clone())?);
    let control_plane_url = format!("http://{}", addresses.control_plane);
    await_ready(&format!("{control_plane_url}/readyz"), runtime, parts, stop)?;

    let gateway = GatewayFile {
        node_name: "local".to_owned(),
        data_dir: dir.path().join("gateway"),
        http: addresses.gateway,
        https: None,
        admin: addresses.admin,
        control_planes: vec![feed],
        upstream_allow: vec![allow],
    };
    let file = dir.path().join("run/gateway.toml");
    dir.write_private(&file, &gateway.to_toml())?;
    parts.push(role("gateway", file, secrets)?);
    let admin_url = format!("http://{}", addresses.admin);
    await_ready(&format!("{admin_url}/readyz"), runtime, parts, stop)?;

    let demo = runtime.block_on(seed::ensure_demo(&seed::Place {
        dir,
        database_url: &database_url,
        control_plane_url: &control_plane_url,
        gateway_url: &format!("http://{}", addresses.gateway),
        echo_url: &format!("http://{}", addresses.echo),
    }))?;
    let report =
        UpReport::new(addresses.gateway, addresses.control_plane, addresses.admin, demo, database_url, redis_url);
    dir.write_private(&dir.path().join("up.json"), &report.to_json()?)?;
    Ok(report)
}

fn start_postgres(options: &Options, dir: &DataDir, parts: &mut Vec<Part>) -> anyhow::Result<String> {
    if let Some(url) = &options.database_url {
        return Ok(url.clone());
    }
    let postgres = PrivatePostgres::start(&dir.postgres(), Durability::Durable)?;
    let url = postgres.url("apihub");
    parts.push(Part::new("postgres", Runs::Postgres(postgres)));
    Ok(url)
}

fn start_redis(options: &Options, dir: &DataDir, parts: &mut Vec<Part>) -> anyhow::Result<String> {
    if let Some(url) = &options.redis_url {
        return Ok(url.clone());
    }
    let redis = PrivateRedis::start(&dir.redis(), true)?;
    let url = redis.url();
    parts.push(Part::new("redis", Runs::Redis(redis)));
    Ok(url)
}

fn role(name: &'static str, file: PathBuf, secrets: Secrets) -> anyhow::Result<Part> {
    let program = std::env::current_exe().context("cannot find the running program")?;
    let make = move || {
        let mut command = Command::new(&program);
        command.arg(name).arg("--config").arg(&file).envs(secrets.environment(name));
        if name != "control-plane" {
            command.env_remove("DATABASE_URL");
        }
        if std::env::var_os("RUST_LOG").is_none() {
            // What people read here is the box with the addresses.
            command.env("RUST_LOG", "warn");
        }
        command
    };
    Ok(Part::role(name, make)?)
}

/// Waits until `url` answers 200, looking after the parts meanwhile.
fn await_ready(
    url: &str,
    runtime: &tokio::runtime::Runtime,
    parts: &mut [Part],
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
    let deadline = Instant::now() + READY_WAIT;
    while Instant::now() < deadline && !stop.load(Ordering::Relaxed) {
        if runtime.block_on(async { client.get(url).send().await }).is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        parts.iter_mut().for_each(Part::watch);
        std::thread::sleep(WATCH_EVERY);
    }
    anyhow::bail!("{url} was not ready within {} s", READY_WAIT.as_secs())
}

impl Addresses {
    fn choose(options: &Options) -> anyhow::Result<Addresses> {
        Ok(Addresses {
            gateway: ports::choose(options.gateway_port, 8080)?,
            control_plane: ports::choose(options.control_plane_port, 8081)?,
            admin: ports::choose(options.admin_port, 9090)?,
            echo: ports::choose(options.echo_port, 8090)?,
        })
    }
}

fn random_secret() -> anyhow::Result<String> {
    snapshot::key::random_digits(43).map_err(|error| anyhow::anyhow!("the system's random source failed: {error}"))
}

fn stop_on_signal(runtime: &tokio::runtime::Runtime) -> anyhow::Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let _guard = runtime.enter();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    runtime.spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        seen.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}
