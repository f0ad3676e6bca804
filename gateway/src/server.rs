//! Puts the gateway together and runs it: what it knows from disk, its background tasks, its listeners, its end. It refuses
//! to start half: what the settings name must be there, and every address must be free.

mod background;
mod door;
mod edge;
mod gate;
mod guard;
mod interfaces;
mod place;
mod stop;
mod tls;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use pingora_core::server::configuration::{Opt, ServerConf};
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::listening::Service;
use pingora_proxy::http_proxy;
use tokio::sync::watch;

use crate::admin;
use crate::bulkhead::{Bulkheads, Caps};
use crate::decide::EdgeRules;
use crate::feed::{self, ControlPlane, DiskSnapshot, FeedSettings, Identity};
use crate::limiter::{Driver, Limiter};
use crate::live::{Live, Snapshot};
use crate::metrics::Metrics;
use crate::proxy::{ATTEMPTS_MAX, Book, Gateway};
use crate::settings::Settings;
use crate::upstream::{SystemLookup, Upstreams, keep_resolved};
use crate::usage::{self, UsageRecorder, UsageSettings};
use background::Tasks;
use door::Door;
use edge::Edge;
use gate::Gated;
use stop::{Background, StopSignals, leave_early};
use tls::Certificate;

/// What remains for the runtimes once the process wants to leave; nothing is in flight any more by then.
const RUNTIMES_END_S: u64 = 1;

/// Runs the gateway until it is told to stop; then the process ends from within. Errors: what is missing at the start.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    // Another part of the process may have chosen the same provider already.
    let _chosen_before = rustls::crypto::ring::default_provider().install_default();
    let data_dir = place::prepare_data_dir(&settings.node.data_dir)?;
    let upgrade_socket = place::upgrade_socket(&data_dir)?;
    if !settings.upgrade {
        place::check_addresses(&settings.own_listeners())?;
    }
    if let Some(file) = &settings.upstream.ca_file {
        place::check_authorities(file)?;
    }
    let parts = Parts::new(&settings, &data_dir)?;
    let certificate = read_certificate(&settings)?;

    let mut server = Server::new_with_opt_and_conf(
        Opt { upgrade: settings.upgrade, ..Opt::default() },
        server_conf(&settings, &data_dir, upgrade_socket),
    );
    server.bootstrap();
    let (stop, stopped) = watch::channel(false);
    let (done, all_done) = std::sync::mpsc::channel();
    let (metrics, is_leaving) = (parts.metrics.clone(), parts.is_leaving.clone());
    let tasks = Tasks { server: &mut server, stop: stopped, done };
    parts.start(&settings, certificate, tasks)?;

    let background = Background { stop, done: all_done };
    leave_early(server.watch_execution_phase(), metrics.clone(), settings.stop.grace_period, background)?;
    tracing::info!(http = %settings.listen.http, admin = %settings.admin.listen, "the gateway starts");
    server.run(RunArgs { shutdown_signal: Box::new(StopSignals { metrics, stop: settings.stop, is_leaving }) });
    Ok(())
}

/// Everything that the services share, made before any of them runs.
struct Parts {
    identity: Identity,
    metrics: Arc<Metrics>,
    live: Live,
    disk: Arc<DiskSnapshot>,
    limiter: Arc<Limiter>,
    driver: Driver,
    upstreams: Arc<Upstreams>,
    feed: FeedSettings,
    is_leaving: Arc<AtomicBool>,
}

impl Parts {
    fn new(settings: &Settings, data_dir: &Path) -> anyhow::Result<Parts> {
        let identity = Identity::read_or_make(data_dir, &settings.node.name)?;
        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"))?);
        let disk = Arc::new(DiskSnapshot::at(data_dir.join(feed::SNAPSHOT_FILE)));
        let live = Live::new(Snapshot::empty());
        feed::boot(&live, &disk, &metrics);
        let upstreams =
            Upstreams::new(settings.upstream.clone(), interfaces::spell_out(settings.own_listeners()), metrics.clone());
        let feed = feed_settings(settings, identity.clone())?;
        let (limiter, driver) = Limiter::start(settings.limits.redis.clone(), metrics.clone());
        let upstreams = Arc::new(upstreams);
        Ok(Parts { identity, metrics, live, disk, limiter, driver, upstreams, feed, is_leaving: Arc::default() })
    }

    /// Adds all services to the server; answers with where they record usage.
    fn start(
        self,
        settings: &Settings,
        certificate: Option<Arc<Certificate>>,
        mut tasks: Tasks<'_>,
    ) -> anyhow::Result<UsageRecorder> {
        let Parts { identity, metrics, live, disk, limiter, driver, upstreams, feed, is_leaving } = self;
        let usage_settings = UsageSettings {
            redis_url: settings.usage.redis_url.clone(),
            stream: settings.usage.stream.clone(),
            stream_length_max: settings.usage.stream_length_max,
            node_id: identity.node_id,
            dir: settings.node.data_dir.join(usage::DIR),
            spool_bytes_max: settings.usage.spool_bytes_max,
            on_full: settings.usage.on_usage_full,
            threads: settings.threads,
        };
        let (recorder, usage) = usage::open(usage_settings, metrics.clone())?;
        tasks.add("usage", move |stop| usage.run(stop));
        let followed = (live.clone(), metrics.clone(), upstreams.clone());
        tasks.add("feed", move |stop| feed::follow(followed.0, disk, feed, followed.1, followed.2, stop));
        let resolved = (upstreams.clone(), live.clone());
        tasks.add("resolver", move |stop| keep_resolved(resolved.0, resolved.1, Arc::new(SystemLookup::new()), stop));
        tasks.add("limiter", move |stop| driver.run(stop));
        if let (Some(certificate), Some(https)) = (certificate.clone(), settings.listen.https.clone()) {
            tasks.add("certificate", move |stop| certificate.keep_fresh(https, stop));
        }

        let named = upstreams.clone();
        let book = Book { metrics: metrics.clone(), usage: recorder.clone(), access: settings.log.access };
        let caps = Caps {
            requests_in_flight_max: settings.limits.requests_per_product_max,
            upstream_connections_max: settings.upstream.connections_per_product_max,
        };
        let gateway = Gateway {
            live: live.clone(),
            limiter: limiter.clone(),
            bulkheads: Bulkheads::new(caps, metrics.upstream_connections_open.clone()),
            upstreams,
            rules: EdgeRules::from(settings),
            client: settings.client.clone(),
            rate_limit_headers: settings.answers.rate_limit_headers,
            metrics: metrics.clone(),
            book: Arc::new(book),
            is_leaving,
        };
        let server = tasks.server;
        let names = gate::Names { upstreams: named, live: live.clone() };
        let edge = Edge {
            proxy: Arc::new(http_proxy(&server.configuration, gateway)),
            door: Arc::new(Door::new(settings, metrics.clone())),
            live,
            metrics: metrics.clone(),
            client: settings.client.clone(),
        };
        let service = client_service(settings, edge, certificate)?;
        let has_control_planes = !settings.feed.control_planes.is_empty();
        server.add_service(Gated { service, metrics: metrics.clone(), has_control_planes, names, limiter });
        let mut admin = admin::service(&settings.admin.listen.to_string(), metrics, identity);
        admin.threads = Some(1);
        server.add_service(admin);
        Ok(recorder)
    }
}

fn client_service(
    settings: &Settings,
    edge: Edge,
    certificate: Option<Arc<Certificate>>,
) -> anyhow::Result<Service<Edge>> {
    let door = edge.door.clone();
    let mut service = Service::new("clients".to_owned(), edge);
    service.endpoints().set_pre_tls_callback(door);
    service.add_tcp(&settings.listen.http.to_string());
    if let (Some(https), Some(certificate)) = (&settings.listen.https, certificate) {
        service.add_tls_with_settings(&https.address.to_string(), None, tls::listener(certificate)?);
    }
    Ok(service)
}

fn read_certificate(settings: &Settings) -> anyhow::Result<Option<Arc<Certificate>>> {
    let read = settings.listen.https.as_ref().map(Certificate::read).transpose();
    Ok(read.context("listen.https")?.map(Arc::new))
}

fn feed_settings(settings: &Settings, identity: Identity) -> anyhow::Result<FeedSettings> {
    let control_planes = settings.feed.control_planes.iter().map(|text| ControlPlane::parse(text));
    let ca_pem =
        settings.feed.ca_file.as_ref().map(|file| {
            std::fs::read(file).with_context(|| format!("feed.ca_file: {} cannot be read", file.display()))
        });
    Ok(FeedSettings {
        control_planes: control_planes.collect::<Result<_, _>>().context("feed.control_planes")?,
        token: settings.feed.token.clone(),
        ca_pem: ca_pem.transpose()?,
        identity,
    })
}

fn server_conf(settings: &Settings, data_dir: &Path, upgrade_socket: String) -> ServerConf {
    let grace = settings.stop.grace_period.saturating_add(stop::FLUSH_MAX).saturating_add(Duration::from_secs(1));
    ServerConf {
        threads: settings.threads,
        // One accepting task for each thread, so that a burst of connections does not queue behind one.
        listener_tasks_per_fd: settings.threads.clamp(1, 8),
        // The framework multiplies it by the threads, though its pool is one for all.
        upstream_keepalive_pool_size: settings.upstream.connections_kept.div_ceil(settings.threads.max(1)),
        max_retries: ATTEMPTS_MAX,
        ca_file: settings.upstream.ca_file.as_ref().map(|file| file.display().to_string()),
        upgrade_sock: upgrade_socket,
        pid_file: data_dir.join("pid").display().to_string(),
        // Always longer than `leave_early` takes.
        grace_period_seconds: Some(grace.as_secs()),
        graceful_shutdown_timeout_seconds: Some(RUNTIMES_END_S),
        ..ServerConf::default()
    }
}
