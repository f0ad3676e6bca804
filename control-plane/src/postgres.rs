//! How Postgres is reached: its URL with `sslmode`, and TLS where that asks for it. Refuses to go on in the clear where TLS
//! was asked for, and, with `verify-full` or an authority of the operator's own, to talk to anybody else than the host named.

mod tls;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, Connection, Error, Socket};

pub(crate) use tls::Tls;
use tls::{Encrypted, Trust};

/// What the driver does not know and this room adds; libpq's word for it.
const VERIFY_FULL: &str = "sslmode=verify-full";
/// Its nearest word that the driver knows.
const REQUIRE: &str = "sslmode=require";
const VERIFY_CA: &str = "sslmode=verify-ca";

/// Moves the bytes of a connection, and hands out its notifications.
pub type Driver = Connection<Socket, Encrypted>;

#[derive(Debug, thiserror::Error)]
pub enum LinkFault {
    #[error("the database URL cannot be read; it is `postgres://user@host/database`")]
    Url,
    #[error("`sslmode` is disable, prefer, require or verify-full; the last one checks authority and name")]
    VerifyCa,
    #[error("`sslmode=disable` contradicts `database.ca_file`: leave one of them away")]
    Contradiction,
    #[error("the authorities in {0} cannot be read: {1}")]
    Authorities(PathBuf, String),
    #[error("this machine has no certificate authorities; name a file of them in `database.ca_file`")]
    NoAuthorities,
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// An address of Postgres with all that a connection to it needs.
#[derive(Clone)]
pub struct Link {
    pub(crate) config: Config,
    pub(crate) tls: Tls,
}

impl Link {
    /// Reads a URL or a `key=value` text, and the authorities in `ca_file`. With such a file TLS is required and the server's
    /// certificate verified, whatever else the URL says; over a unix socket there is no TLS.
    pub fn read(url: &str, ca_file: Option<&Path>) -> Result<Link, LinkFault> {
        let (mut config, is_verified) = read_url(url)?;
        let hosts = config.get_hosts();
        if !hosts.is_empty() && hosts.iter().all(|host| matches!(host, Host::Unix(_))) {
            config.ssl_mode(SslMode::Disable);
            return Ok(Link { config, tls: Tls::new(Trust::Any)? });
        }
        let trust = match ca_file {
            Some(_) if config.get_ssl_mode() == SslMode::Disable => return Err(LinkFault::Contradiction),
            Some(file) => Trust::File(file),
            None if is_verified => Trust::System,
            None => Trust::Any,
        };
        if ca_file.is_some() {
            config.ssl_mode(SslMode::Require);
        }
        Ok(Link { config, tls: Tls::new(trust)? })
    }

    /// One connection, without more ado; the caller drives the second half.
    pub async fn connect(&self) -> Result<(Client, Driver), Error> {
        self.config.connect(self.tls.clone()).await
    }

    /// The same server, another database.
    #[must_use]
    pub fn to_database(&self, name: &str) -> Link {
        let mut link = self.clone();
        link.config.dbname(name);
        link
    }

    pub fn name(&self) -> Option<&str> {
        self.config.get_dbname()
    }
}

/// The driver's own reading, and whether the server's certificate must be verified.
fn read_url(text: &str) -> Result<(Config, bool), LinkFault> {
    // A password stands before the `?` of a URL and may hold anything.
    let from = text.find("://").and_then(|_| text.find('?')).unwrap_or(0);
    let (before, options) = text.split_at_checked(from).unwrap_or(("", text));
    if options.contains(VERIFY_CA) {
        return Err(LinkFault::VerifyCa);
    }
    let is_verified = options.contains(VERIFY_FULL);
    let known = format!("{before}{}", options.replacen(VERIFY_FULL, REQUIRE, 1));
    known.parse().map(|config| (config, is_verified)).map_err(|_| LinkFault::Url)
}
