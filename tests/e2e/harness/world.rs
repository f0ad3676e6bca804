//! A world: database, Redis, control planes, gateways and an upstream, all of one test's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use apihub::role_files::{ControlPlaneFile, GatewayFile, Https, Secrets};
use servers::{Durability, PrivatePostgres, PrivateRedis, SmallDisk};
use tempfile::TempDir;

use super::fault_proxy::{FaultProxy, Target};
use super::publisher::Publisher;
use super::role::Role;
use super::upstream::Upstream;
use super::wait::eventually;
use super::{ports, postgres};

/// What a test wants other than one control plane and one gateway over a shared Postgres.
pub struct Setup {
    gateways: usize,
    control_planes: usize,
    own_postgres: bool,
    forgetful_redis: bool,
    tls: bool,
    redis_links: bool,
    gateway_disk: Option<PathBuf>,
    small_disk: bool,
    redis_of_consumers: bool,
    feed_link: bool,
}

/// As the settings of both roles have it.
pub const USAGE_STREAM: &str = "apihub:usage";
const USAGE_GROUP: &str = "control-plane";
/// Of a small disk: some times what a gateway needs, as after a kill there are two epochs for a while.
const SMALL_DISK_BYTES: u64 = 256 << 20;

pub struct World {
    pub gateways: Vec<Gateway>,
    pub control_planes: Vec<ControlPlane>,
    /// What the first gateway writes to, where the test asked for it and may mount one.
    pub small_disk: Option<SmallDisk>,
    pub redis: PrivateRedis,
    /// Of the control planes alone, where the test stands between them and the gateways.
    pub redis_of_consumers: Option<PrivateRedis>,
    /// How each gateway reaches Redis, where the test wants to break that.
    pub redis_links: Vec<FaultProxy>,
    /// How the gateways reach the first control plane's feed, where the test wants to break that.
    pub feed_link: Option<FaultProxy>,
    /// Only where the test asked for a Postgres of its own.
    pub postgres: Option<PrivatePostgres>,
    pub upstream: Upstream,
    pub database_url: String,
    pub client: reqwest::Client,
    dir: TempDir,
}

pub struct Gateway {
    pub role: Role,
    pub url: String,
    pub https_url: Option<String>,
    pub admin_url: String,
    pub data_dir: PathBuf,
    pub name: String,
}

pub struct ControlPlane {
    pub role: Role,
    pub url: String,
    pub feed: String,
}

impl Setup {
    pub fn gateways(mut self, count: usize) -> Setup {
        self.gateways = count;
        self
    }

    pub fn control_planes(mut self, count: usize) -> Setup {
        self.control_planes = count;
        self
    }

    /// A Postgres that the test may kill.
    pub fn own_postgres(mut self) -> Setup {
        self.own_postgres = true;
        self
    }

    /// A Redis that keeps nothing when it ends.
    pub fn forgetful_redis(mut self) -> Setup {
        self.forgetful_redis = true;
        self
    }

    /// Gateways that also listen with TLS and HTTP/2.
    pub fn tls(mut self) -> Setup {
        self.tls = true;
        self
    }

    /// Each gateway reaches Redis through a proxy of its own.
    pub fn redis_links(mut self) -> Setup {
        self.redis_links = true;
        self
    }

    /// The first gateway keeps its data there.
    pub fn gateway_disk(mut self, at: &Path) -> Setup {
        self.gateway_disk = Some(at.to_owned());
        self
    }

    /// The first gateway's data lies on a disk that can be filled.
    pub fn small_disk(mut self) -> Setup {
        self.small_disk = true;
        self
    }

    /// Control planes and gateways have a Redis each: somebody of the test's carries usage from one to the other.
    pub fn redis_of_consumers(mut self) -> Setup {
        self.redis_of_consumers = true;
        self
    }

    /// The gateways reach the first control plane's feed through a proxy.
    pub fn feed_link(mut self) -> Setup {
        self.feed_link = true;
        self
    }

    pub async fn start(self) -> World {
        choose_tls_provider();
        let dir = tempfile::Builder::new().prefix("apihub-world-").tempdir_in("/tmp").unwrap();
        // Postgres runs as another user and must be able to walk in.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let redis = PrivateRedis::start(&dir.path().join("redis"), !self.forgetful_redis).unwrap();
        let (postgres, database_url) = self.database(dir.path()).await;
        let upstream = Upstream::start().await;
        let secrets = Secrets {
            feed_token: "a-feed-token-of-a-test-0123456789abcdef".to_owned(),
            database_url: database_url.clone(),
            redis_url: redis.url(),
        };
        let allow = vec![
            format!("127.0.0.1/32:{}", upstream.address.port()),
            format!("127.0.0.1/32:{}", upstream.h2_address.port()),
            format!("127.0.0.1/32:{}", upstream.raw_address.port()),
            format!("127.0.0.1/32:{}", upstream.closed_port),
        ];
        let addresses: Vec<_> = (0..self.gateways).map(|_| ports::free()).collect();
        let start_other = || PrivateRedis::start(&dir.path().join("redis-of-consumers"), false).unwrap();
        let redis_of_consumers = self.redis_of_consumers.then(start_other);
        let redis_url = redis_of_consumers.as_ref().map_or(redis.url(), PrivateRedis::url);
        let secrets_of_consumers = Secrets { redis_url, ..secrets.clone() };
        let small_disk = match self.small_disk {
            true => SmallDisk::mount(&dir.path().join("gateway-0"), SMALL_DISK_BYTES).unwrap(),
            false => None,
        };
        let control_planes: Vec<ControlPlane> = (0..self.control_planes)
            .map(|index| start_control_plane(dir.path(), index, &secrets_of_consumers, &allow, addresses[0]))
            .collect();
        for control_plane in &control_planes {
            control_plane.role.ready().await;
        }
        let mut feeds: Vec<String> = control_planes.iter().map(|control_plane| control_plane.feed.clone()).collect();
        let feed_link = match self.feed_link.then(|| feeds[0].strip_prefix("unix:").unwrap().into()) {
            Some(socket) => Some(FaultProxy::start(Target::Unix(socket)).await),
            None => None,
        };
        if let Some(link) = &feed_link {
            feeds[0] = format!("http://{}", link.address);
        }
        let tls = self.tls.then(|| write_certificate(dir.path()));
        let redis_links = self.links(&redis).await;
        let secrets_of = |index: usize| match redis_links.get(index) {
            Some(link) => Secrets { redis_url: link.redis_url(), ..secrets.clone() },
            None => secrets.clone(),
        };
        let gateways: Vec<Gateway> = addresses
            .into_iter()
            .enumerate()
            .map(|(index, http)| {
                let disk = self.gateway_disk.as_deref().filter(|_| index == 0);
                start_gateway(dir.path(), disk, index, http, &secrets_of(index), &allow, &feeds, tls.as_ref())
            })
            .collect();
        for gateway in &gateways {
            gateway.role.ready().await;
        }
        let client = client();
        World {
            gateways,
            control_planes,
            small_disk,
            redis,
            redis_of_consumers,
            redis_links,
            feed_link,
            postgres,
            upstream,
            database_url,
            client,
            dir,
        }
    }

    async fn links(&self, redis: &PrivateRedis) -> Vec<FaultProxy> {
        let mut links = Vec::new();
        for _ in 0..if self.redis_links { self.gateways } else { 0 } {
            links.push(FaultProxy::start(Target::Unix(redis.socket())).await);
        }
        links
    }

    async fn database(&self, dir: &Path) -> (Option<PrivatePostgres>, String) {
        if !self.own_postgres {
            return (None, postgres::fresh_database().await);
        }
        let server = PrivatePostgres::start(&dir.join("postgres"), Durability::ThrowAway).unwrap();
        let url = postgres::migrate_new(&server, "apihub").await;
        (Some(server), url)
    }
}

impl World {
    pub fn with() -> Setup {
        Setup {
            gateways: 1,
            control_planes: 1,
            own_postgres: false,
            forgetful_redis: false,
            tls: false,
            redis_links: false,
            gateway_disk: None,
            small_disk: false,
            redis_of_consumers: false,
            feed_link: false,
        }
    }

    pub async fn start() -> World {
        World::with().start().await
    }

    pub fn gateway(&self) -> &Gateway {
        &self.gateways[0]
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A publisher with an organization of his own, signed in.
    pub async fn publisher(&self, name: &str) -> Publisher {
        Publisher::register(&self.control_planes[0].url, name).await
    }

    /// Redis forgets everything.
    pub async fn flush_redis(&self) {
        eventually("Redis forgets", || async { ask_redis::<()>(&self.redis.url(), &["FLUSHALL"]).await.ok() }).await;
    }

    /// Whether no batch is on its way: the database has every one that was sealed, and the stream holds none, not even for a
    /// consumer that was killed with it.
    pub async fn is_usage_at_rest(&self) -> bool {
        for gateway in &self.gateways {
            let acknowledged = gateway.metric("gateway_usage_batches_acknowledged_total").await;
            // At least: what it took over was sealed by others.
            if acknowledged < gateway.metric("gateway_usage_batches_sealed_total").await
                || gateway.metric("gateway_usage_unacknowledged_batches").await > 0.0
            {
                return false;
            }
        }
        let url = self.redis.url();
        let pending: redis::RedisResult<Vec<redis::Value>> =
            ask_redis(&url, &["XPENDING", USAGE_STREAM, USAGE_GROUP]).await;
        let length: redis::RedisResult<u64> = ask_redis(&url, &["XLEN", USAGE_STREAM]).await;
        // While the group is made anew in a Redis that has forgotten it, nobody knows.
        length.is_ok_and(|length| length == 0) && pending.is_ok_and(|pending| pending[0] == redis::Value::Int(0))
    }

    /// One row of the database, as text.
    pub async fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.ask(sql).await.unwrap()
    }

    /// None: the database is away.
    pub async fn try_query(&self, sql: &str) -> Option<Vec<Vec<Option<String>>>> {
        self.ask(sql).await.ok()
    }

    async fn ask(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.database_url, tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(sql).await?;
        drop(client);
        let _ = connection.await;
        let row = |row: &tokio_postgres::SimpleQueryRow| {
            (0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect::<Vec<_>>()
        };
        let rows = messages.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(found) => Some(row(found)),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// One number of the database.
    pub async fn count(&self, sql: &str) -> i64 {
        self.query(sql).await[0][0].as_deref().unwrap_or("0").parse().unwrap()
    }
}

impl Gateway {
    /// The sum of a metric's samples.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = reqwest::get(format!("{}/metrics", self.admin_url)).await.unwrap().text().await.unwrap();
        let samples = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{')));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until what it serves is on its disk.
    pub async fn saved(&self) {
        eventually("what is served is on the disk", || async {
            let snapshot = &self.healthz().await["snapshot"];
            (snapshot["saved_revision"] == snapshot["revision"]).then_some(())
        })
        .await;
    }

    pub async fn healthz(&self) -> serde_json::Value {
        reqwest::get(format!("{}/healthz", self.admin_url)).await.unwrap().json().await.unwrap()
    }
}

/// As the program's `main` does; the clients of the tests ask for it.
pub fn choose_tls_provider() {
    let _chosen_before = rustls::crypto::ring::default_provider().install_default();
}

/// The answer of a Redis to one command, over a connection of its own.
pub async fn ask_redis<T: redis::FromRedisValue>(url: &str, words: &[&str]) -> redis::RedisResult<T> {
    let client = redis::Client::open(url)?;
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut client.get_multiplexed_async_connection().await?).await
}

/// Follows nothing, trusts any certificate of the test's own, never pools across tests.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .danger_accept_invalid_certs(true)
        .timeout(Duration::from_secs(60))
        .build()
        .unwrap()
}

fn start_control_plane(
    dir: &Path,
    index: usize,
    secrets: &Secrets,
    allow: &[String],
    gateway: std::net::SocketAddr,
) -> ControlPlane {
    let listen = ports::free();
    let feed = format!("unix:{}", dir.join(format!("feed{index}.sock")).display());
    let file = ControlPlaneFile {
        listen,
        feed_listen: feed.clone(),
        gateway_url: format!("http://{gateway}"),
        upstream_allow: allow.to_vec(),
    };
    let path = dir.join(format!("control-plane{index}.toml"));
    std::fs::write(&path, file.to_toml()).unwrap();
    let url = format!("http://{listen}");
    let role = Role::start("control-plane", path, secrets.clone(), format!("{url}/readyz"));
    ControlPlane { role, url, feed }
}

#[allow(clippy::too_many_arguments)] // One call, each of another type or meaning.
fn start_gateway(
    dir: &Path,
    disk: Option<&Path>,
    index: usize,
    http: std::net::SocketAddr,
    secrets: &Secrets,
    allow: &[String],
    feeds: &[String],
    tls: Option<&(PathBuf, PathBuf)>,
) -> Gateway {
    let admin = ports::free();
    let name = format!("gateway-{index}");
    let data_dir = disk.unwrap_or(dir).join(&name);
    let https = tls.map(|(certificate, key)| Https {
        listen: ports::free(),
        certificate: certificate.clone(),
        key: key.clone(),
    });
    let https_url = https.as_ref().map(|https| format!("https://localhost:{}", https.listen.port()));
    let file = GatewayFile {
        node_name: name.clone(),
        data_dir: data_dir.clone(),
        http,
        https,
        admin,
        control_planes: feeds.to_vec(),
        upstream_allow: allow.to_vec(),
    };
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(&path, file.to_toml()).unwrap();
    let admin_url = format!("http://{admin}");
    let role = Role::start("gateway", path, secrets.clone(), format!("{admin_url}/readyz"));
    Gateway { role, url: format!("http://{http}"), https_url, admin_url, data_dir, name }
}

fn write_certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (dir.join("tls.crt"), dir.join("tls.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}
