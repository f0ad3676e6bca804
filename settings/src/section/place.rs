//! Places: addresses, networks, URLs and paths, parsed here so that nobody behind the settings has to. It refuses host
//! names where an address is meant, networks with host bits, and URLs that carry a password.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use url::Url;

use super::{Section, Taken, as_text};
use crate::fault::{Wrong, shown};

impl Section<'_> {
    /// An IP address with a port. An empty default makes the key required.
    pub fn socket_addr(&mut self, key: &str, default: &str) -> SocketAddr {
        // The fallback is never used: it comes with a fault, and `finish` fails.
        self.parsed(key, default, parse_socket_addr).unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
    }

    /// `None` when the key is missing or empty.
    pub fn optional_socket_addr(&mut self, key: &str) -> Option<SocketAddr> {
        self.optional_parsed(key, parse_socket_addr)
    }

    /// A path as written: a relative one starts in the working directory. An empty default makes the key required.
    pub fn path(&mut self, key: &str, default: &str) -> PathBuf {
        self.parsed(key, default, parse_path).unwrap_or_default()
    }

    /// `None` when the key is missing or empty.
    pub fn optional_path(&mut self, key: &str) -> Option<PathBuf> {
        self.optional_parsed(key, parse_path)
    }

    /// Networks as `10.0.0.0/8`; a bare address means that address alone. Each faulty element is reported at its own line.
    pub fn networks(&mut self, key: &str, default: &[&str]) -> Vec<IpNet> {
        let Some(texts) = self.texts(key) else {
            let defaults: Vec<_> = default.iter().map(|text| parse_network(text)).collect();
            return defaults.into_iter().filter_map(|parsed| self.accept_default(key, parsed)).collect();
        };
        let mut networks = Vec::with_capacity(texts.len());
        for (line, text) in texts {
            match parse_network(&text) {
                Ok(network) => networks.push(network),
                Err(wrong) => self.wrong_at(line, key, wrong),
            }
        }
        networks
    }

    /// A URL of one of `schemes`, without a password. An empty default makes the key required.
    pub fn url(&mut self, key: &str, default: &str, schemes: &[&str]) -> Url {
        self.parsed(key, default, |text| parse_url(text, schemes)).unwrap_or_else(placeholder_url)
    }

    /// `None` when the key is missing or empty.
    pub fn optional_url(&mut self, key: &str, schemes: &[&str]) -> Option<Url> {
        self.optional_parsed(key, |text| parse_url(text, schemes))
    }

    /// The written value, or the default when nothing is written or it is faulty; `None` comes with a fault.
    fn parsed<T>(&mut self, key: &str, default: &str, parse: impl Fn(&str) -> Result<T, Wrong>) -> Option<T> {
        let mut is_missing = false;
        match self.take(key, "a string", as_text) {
            Taken::Value(text) => match parse(&text) {
                Ok(value) => return Some(value),
                Err(wrong) => self.wrong(key, wrong),
            },
            Taken::Faulty => {}
            Taken::Nothing => is_missing = true,
        }
        if !default.is_empty() {
            return self.accept_default(key, parse(default));
        }
        if is_missing {
            self.wrong(key, Wrong::new("is required and has no default"));
        }
        None
    }

    fn optional_parsed<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, Wrong>) -> Option<T> {
        let text = self.optional_string(key)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.wrong(key, wrong);
                None
            }
        }
    }

    /// A default that does not parse is our own mistake; it is told like any other fault instead of a panic.
    fn accept_default<T>(&mut self, key: &str, parsed: Result<T, Wrong>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.wrong(key, Wrong::new(format!("the built-in default is faulty: {}", wrong.reason)));
                None
            }
        }
    }
}

fn parse_socket_addr(text: &str) -> Result<SocketAddr, Wrong> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let wrong = Wrong::new(format!("{} is not an IP address with a port", shown(text)));
    Err(match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => wrong.mend(format!("add the port, as in `{ip}:8080`")),
        Ok(IpAddr::V6(ip)) => wrong.mend(format!("add the port, as in `[{ip}]:8080`")),
        Err(_) => wrong.mend("write it as `127.0.0.1:8080` or `[::1]:8080`"),
    })
}

fn parse_path(text: &str) -> Result<PathBuf, Wrong> {
    match text {
        "" => Err(Wrong::new("is empty, must be a path")),
        text if text.contains('\0') => Err(Wrong::new("holds a NUL character, which no path can")),
        text => Ok(PathBuf::from(text)),
    }
}

fn parse_network(text: &str) -> Result<IpNet, Wrong> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(ip));
    }
    let Ok(network) = text.parse::<IpNet>() else {
        return Err(
            Wrong::new(format!("{} is not a network", shown(text))).mend("write it as `10.0.0.0/8` or `fd00::/8`")
        );
    };
    if network.trunc() != network {
        let whole = network.trunc();
        let wrong = Wrong::new(format!("{} has bits set outside of its mask", shown(text)));
        return Err(wrong.mend(format!("write `{whole}`")));
    }
    Ok(network)
}

/// The reasons do not repeat the text, since it may hold a password.
fn parse_url(text: &str, schemes: &[&str]) -> Result<Url, Wrong> {
    let allowed = schemes.iter().map(|scheme| format!("`{scheme}://`")).collect::<Vec<_>>().join(" or ");
    let url = Url::parse(text)
        .map_err(|error| Wrong::new(format!("is not a URL: {error}")).mend(format!("it starts with {allowed}")))?;
    if !schemes.contains(&url.scheme()) {
        let reason = format!("has the scheme {}", shown(url.scheme()));
        return Err(Wrong::new(reason).mend(format!("must start with {allowed}")));
    }
    if url.password().is_some() {
        return Err(Wrong::new("carries a password, which does not belong into this file").mend("leave it out"));
    }
    Ok(url)
}

/// A `Url` cannot be made without parsing. It is never used: it comes with a fault, and `finish` fails.
#[allow(clippy::expect_used)]
fn placeholder_url() -> Url {
    Url::parse("unset:").expect("a scheme followed by nothing is a valid URL, as the tests prove")
}
