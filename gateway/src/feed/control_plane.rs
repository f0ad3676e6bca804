//! The address of a control plane, and how it is reached: a unix socket, loopback without TLS, or TLS with a given authority.
//! Refuses to send a token in the clear beyond this machine.

use std::fmt;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Uri};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a silent connection is asked whether it lives, and how long its answer may take.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlane {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Local,
    Tls,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ControlPlaneFault {
    #[error("`{0}` is not unix:/path, http://loopback:port or https://host:port")]
    Form(String),
    #[error("`{0}` would send the token in the clear: http is for loopback addresses only, use https")]
    InTheClear(String),
    #[error("`{0}` needs feed.ca_file: the authority that signed its certificate")]
    NoAuthority(String),
    #[error("`{0}` cannot be used: {1}")]
    Transport(String, String),
}

impl ControlPlane {
    /// Reads `unix:/path`, `http://127.0.0.1:7000` or `https://host:port`.
    pub fn parse(text: &str) -> Result<ControlPlane, ControlPlaneFault> {
        let form = || ControlPlaneFault::Form(text.to_owned());
        let local = ControlPlane { text: text.to_owned(), kind: Kind::Local };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') { Ok(local) } else { Err(form()) };
        }
        let uri: Uri = text.parse().map_err(|_| form())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(form)?;
        match uri.scheme_str() {
            Some("https") => Ok(ControlPlane { text: text.to_owned(), kind: Kind::Tls }),
            Some("http") if is_loopback(host) => Ok(local),
            Some("http") => Err(ControlPlaneFault::InTheClear(text.to_owned())),
            _ => Err(form()),
        }
    }

    /// The endpoint to connect to. `ca_pem`: needed for `https`.
    pub(super) fn endpoint(&self, ca_pem: Option<&[u8]>) -> Result<Endpoint, ControlPlaneFault> {
        let transport =
            |error: tonic::transport::Error| ControlPlaneFault::Transport(self.text.clone(), error.to_string());
        let mut endpoint = Endpoint::from_shared(self.text.clone()).map_err(transport)?;
        if self.kind == Kind::Tls {
            let ca_pem = ca_pem.ok_or_else(|| ControlPlaneFault::NoAuthority(self.text.clone()))?;
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem));
            endpoint = endpoint.tls_config(tls).map_err(transport)?;
        }
        Ok(endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true))
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
