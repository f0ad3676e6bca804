//! What `apihub up` tells: a box on standard output for people, `up.json` for programs. Both say the same.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The contents of `<data-dir>/up.json` (mode 0600: it holds the demo's secrets).
#[derive(Debug, Serialize, Deserialize)]
pub struct UpReport {
    pub gateway_url: String,
    pub control_plane_url: String,
    pub gateway_admin_url: String,
    pub dashboard_url: String,
    /// The demo product's upstream: answers with what it saw.
    pub echo_url: String,
    pub demo_key: String,
    pub demo_curl: String,
    pub admin_email: String,
    pub admin_password: String,
    pub database_url: String,
    pub redis_url: String,
}

/// What seeding made or found.
pub struct Demo {
    pub key: String,
    /// Path of the demo product on the gateway.
    pub path: String,
    pub echo_url: String,
    pub admin_email: String,
    pub admin_password: String,
}

impl UpReport {
    pub fn new(
        gateway: SocketAddr,
        control_plane: SocketAddr,
        admin: SocketAddr,
        demo: Demo,
        database_url: String,
        redis_url: String,
    ) -> UpReport {
        let gateway_url = format!("http://{gateway}");
        let control_plane_url = format!("http://{control_plane}");
        UpReport {
            demo_curl: format!("curl -i -H 'Authorization: Bearer {}' {gateway_url}{}", demo.key, demo.path),
            dashboard_url: format!("{control_plane_url}/"),
            gateway_admin_url: format!("http://{admin}"),
            gateway_url,
            control_plane_url,
            echo_url: demo.echo_url,
            demo_key: demo.key,
            admin_email: demo.admin_email,
            admin_password: demo.admin_password,
            database_url,
            redis_url,
        }
    }

    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    #[allow(clippy::print_stdout)] // The answer of a command goes to standard output.
    pub fn print(&self) {
        println!("API-HUB is up. Ctrl-C stops it.\n");
        println!("  gateway        {}", self.gateway_url);
        println!("  control plane  {}   (REST under /v1, reference at /v1/reference)", self.control_plane_url);
        println!("  gateway admin  {}   (/metrics, /readyz, /healthz)", self.gateway_admin_url);
        println!("  echo upstream  {}", self.echo_url);
        println!("  sign in        {}  {}", self.admin_email, self.admin_password);
        println!("\nTry the demo product:\n\n  {}\n", self.demo_curl);
    }
}
