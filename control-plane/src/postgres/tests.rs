//! Postgres over TLS: a real server with a self-made authority, and one that has no TLS and counts what it hears.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use servers::PrivatePostgres;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::metrics::Metrics;
use crate::settings::Database;
use crate::store::{Store, StoreError};

/// Length, and the code that asks for TLS: all that a client may say before it is encrypted.
const TLS_REQUEST_BYTES: usize = 8;

/// A Postgres that calls itself `localhost`, and the file of its authority.
struct Server {
    postgres: PrivatePostgres,
    ca_file: PathBuf,
    other_ca_file: PathBuf,
    _dir: tempfile::TempDir,
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Server {
    fn start() -> Server {
        let dir = tempfile::Builder::new().prefix("apihub-pgtls-").tempdir_in("/tmp").unwrap();
        // Postgres runs as another user and must be able to walk in.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (ca, other) = (authority(), authority());
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let (ca_file, other_ca_file) = (dir.path().join("ca.pem"), dir.path().join("other.pem"));
        std::fs::write(&ca_file, ca.pem()).unwrap();
        std::fs::write(&other_ca_file, other.pem()).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let place = dir.path().join("postgres");
        let postgres = PrivatePostgres::start_with_tls(&place, port, &leaf.pem(), &key.serialize_pem()).unwrap();
        Server { postgres, ca_file, other_ca_file, _dir: dir }
    }

    fn url(&self, mode: &str) -> String {
        format!("{}{mode}", self.postgres.url("postgres"))
    }
}

/// Whether the server says that the connection is encrypted; or why there is none.
async fn is_encrypted(url: &str, ca_file: Option<&Path>) -> Result<bool, String> {
    let link = Link::read(url, ca_file).map_err(|fault| fault.to_string())?;
    let (client, driver) = link.connect().await.map_err(|error| format!("{error:?}"))?;
    let driving = tokio::spawn(driver);
    let row = client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await.unwrap();
    drop(client);
    let _ended = driving.await;
    Ok(row.get(0))
}

#[tokio::test]
async fn a_server_with_tls_is_reached_as_its_url_says_and_no_other_way() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let (ours, other) = (Some(server.ca_file.as_path()), Some(server.other_ca_file.as_path()));
    for (mode, ca_file, expected) in [
        ("?sslmode=disable", None, false),
        ("", None, true),
        ("?sslmode=prefer", None, true),
        ("?sslmode=require", None, true),
        ("?sslmode=verify-full", ours, true),
        ("", ours, true),
    ] {
        assert_eq!(is_encrypted(&server.url(mode), ca_file).await, Ok(expected), "{mode} {ca_file:?}");
    }
    let by_address = server.url("?sslmode=verify-full").replace("localhost", "127.0.0.1");
    for (url, ca_file, why) in [
        (server.url("?sslmode=verify-full"), other, "InvalidCertificate"),
        (server.url("?sslmode=require"), other, "InvalidCertificate"),
        (server.url(""), other, "InvalidCertificate"),
        // The system's authorities do not know ours.
        (server.url("?sslmode=verify-full"), None, "InvalidCertificate"),
        (by_address, ours, "NotValidForName"),
    ] {
        let refused = is_encrypted(&url, ca_file).await.unwrap_err();
        assert!(refused.contains(why), "{url} {ca_file:?}: {refused}");
    }
}

#[tokio::test]
async fn migrations_pool_and_sessions_all_go_over_tls() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let database = Database {
        url: settings::Secret::new(server.url("?sslmode=verify-full")),
        ca_file: Some(server.ca_file.clone()),
        pool_size: 2,
        migrate_at_start: false,
    };
    crate::migrate::run(&database.link().unwrap()).await.unwrap();
    let store = Store::connect(&database, Metrics::new().unwrap()).await.unwrap();
    let (_client, driver) = store.session().await.unwrap();
    let driving = tokio::spawn(driver);
    let plain =
        "SELECT count(*) FILTER (WHERE NOT s.ssl), count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
        WHERE a.application_name LIKE 'apihub-%'";
    let pooled = store.connection().await.unwrap();
    let row = pooled.query_one(plain, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (0, 2), "none of the two is in the clear");
    driving.abort();
}

/// A server without TLS; sends back what one client said to it before it hung up.
async fn server_without_tls() -> (u16, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; TLS_REQUEST_BYTES];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(b"N").await.unwrap();
        let mut rest = [0; 64];
        let count = stream.read(&mut rest).await.unwrap();
        request.extend_from_slice(&rest[..count]);
        request
    });
    (port, heard)
}

#[tokio::test]
async fn nothing_is_said_in_the_clear_to_a_server_without_tls_where_tls_is_required() {
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), authority().pem()).unwrap();
    for (mode, ca_file, is_refused) in [
        ("?sslmode=require", None, true),
        ("?sslmode=verify-full", Some(ca.path()), true),
        ("", Some(ca.path()), true),
        ("?sslmode=prefer", None, false),
    ] {
        let (port, heard) = server_without_tls().await;
        let url = format!("postgres://ann:secret@127.0.0.1:{port}/db{mode}");
        let refused = is_encrypted(&url, ca_file).await.unwrap_err();
        let heard = heard.await.unwrap();
        assert_eq!(heard.len() == TLS_REQUEST_BYTES, is_refused, "{mode}: heard {heard:?}");
        assert_eq!(refused.contains("does not support TLS"), is_refused, "{mode}: {refused}");
    }
}

#[tokio::test]
async fn the_store_says_why_it_is_not_connected() {
    let (port, _heard) = server_without_tls().await;
    let url = settings::Secret::new(format!("postgres://ann@127.0.0.1:{port}/db?sslmode=require"));
    let database = Database { url, ca_file: None, pool_size: 1, migrate_at_start: false };
    let error = Store::connect(&database, Metrics::new().unwrap()).await.err().unwrap();
    assert!(matches!(&error, StoreError::Unavailable(reason) if reason.contains("TLS")), "{error}");
}

#[test]
fn what_a_url_may_say_about_tls() {
    let read = |url: &str, ca: Option<&str>| Link::read(url, ca.map(Path::new)).map(|link| link.config.get_ssl_mode());
    assert_eq!(read("postgres://a@h/d", None).unwrap(), SslMode::Prefer);
    assert_eq!(read("postgres://a@h/d?sslmode=verify-full", None).unwrap(), SslMode::Require);
    assert_eq!(read("host=h sslmode=verify-full user=a", None).unwrap(), SslMode::Require);
    // A unix socket has no TLS, so nothing is asked for over it.
    assert_eq!(read("postgres://a@%2Frun%2Fpg/d?sslmode=require", None).unwrap(), SslMode::Disable);
    // A password is not an option.
    assert_eq!(read("postgres://a:sslmode=verify-full@h/d", None).unwrap(), SslMode::Prefer);
    assert!(matches!(read("postgres://a@h/d?sslmode=verify-ca", None), Err(LinkFault::VerifyCa)));
    assert!(matches!(read("postgres://a@h/d?sslmode=maybe", None), Err(LinkFault::Url)));
    assert!(matches!(read("not a url", None), Err(LinkFault::Url)));
    assert!(matches!(read("postgres://a@h/d?sslmode=disable", Some("/ca.pem")), Err(LinkFault::Contradiction)));
    let missing = read("postgres://a@h/d", Some("/no/such/ca.pem")).unwrap_err().to_string();
    assert!(missing.starts_with("the authorities in /no/such/ca.pem cannot be read"), "{missing}");
    let empty = tempfile::NamedTempFile::new().unwrap();
    let empty = read("postgres://a@h/d", empty.path().to_str()).unwrap_err().to_string();
    assert!(empty.ends_with("there is none in it"), "{empty}");
}
