//! Settings files of the two roles as `apihub up` and the tests write them: only what differs from the defaults in
//! `config/`. Secrets never go into a file; they are handed over in the environment.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Handed to a role in its environment.
#[derive(Clone)]
pub struct Secrets {
    pub feed_token: String,
    pub database_url: String,
    pub redis_url: String,
}

pub struct ControlPlaneFile {
    pub listen: SocketAddr,
    /// `unix:/path` or an address.
    pub feed_listen: String,
    pub gateway_url: String,
    pub upstream_allow: Vec<String>,
}

/// Certificate and key files of the TLS listener.
pub struct Https {
    pub listen: SocketAddr,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

pub struct GatewayFile {
    pub node_name: String,
    pub data_dir: PathBuf,
    pub http: SocketAddr,
    pub https: Option<Https>,
    pub admin: SocketAddr,
    pub control_planes: Vec<String>,
    pub upstream_allow: Vec<String>,
}

impl Secrets {
    /// What the role `name` needs, and no more: a gateway has no database.
    pub fn environment(&self, name: &str) -> Vec<(&'static str, &str)> {
        let mut all = vec![("APIHUB_FEED_TOKEN", self.feed_token.as_str()), ("REDIS_URL", self.redis_url.as_str())];
        if name == "control-plane" {
            all.push(("DATABASE_URL", &self.database_url));
        }
        all
    }
}

impl ControlPlaneFile {
    pub fn to_toml(&self) -> String {
        let mut toml = String::new();
        section(&mut toml, "rest", &[("listen", text(&self.listen.to_string()))]);
        section(&mut toml, "sessions", &[("insecure_cookies", "true".to_owned())]);
        section(&mut toml, "feed", &[("listen", text(&self.feed_listen))]);
        section(&mut toml, "gateway", &[("public_url", text(&self.gateway_url))]);
        section(&mut toml, "upstream", &[("allow", list(&self.upstream_allow))]);
        // Months can be ended by hand here: this is a machine for trying things out.
        section(&mut toml, "billing", &[("simulation_clock", "true".to_owned())]);
        toml
    }
}

impl GatewayFile {
    pub fn to_toml(&self) -> String {
        let mut toml = String::new();
        let data_dir = self.data_dir.display().to_string();
        section(&mut toml, "node", &[("name", text(&self.node_name)), ("data_dir", text(&data_dir))]);
        let mut listen = vec![("http", text(&self.http.to_string()))];
        if let Some(https) = &self.https {
            listen.push(("https", text(&https.listen.to_string())));
            listen.push(("certificate_file", text(&https.certificate.display().to_string())));
            listen.push(("key_file", text(&https.key.display().to_string())));
        }
        section(&mut toml, "listen", &listen);
        section(&mut toml, "admin", &[("listen", text(&self.admin.to_string()))]);
        section(&mut toml, "feed", &[("control_planes", list(&self.control_planes))]);
        section(&mut toml, "upstream", &[("allow", list(&self.upstream_allow))]);
        toml
    }
}

fn section(toml: &mut String, name: &str, keys: &[(&str, String)]) {
    // Writing to a String cannot fail.
    let _ = writeln!(toml, "[{name}]");
    for (key, value) in keys {
        let _ = writeln!(toml, "{key} = {value}");
    }
}

/// A TOML basic string has JSON's escapes.
fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

fn list(values: &[String]) -> String {
    serde_json::Value::from(values.to_vec()).to_string()
}
