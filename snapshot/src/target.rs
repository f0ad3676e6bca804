//! The target URL of an endpoint: `https://api.example.com/v2/users/{id}?full={full}`. Path parameters go only into path
//! and query, re-encoded; scheme, host and port are fixed, so no request can choose where it goes. Resolves no names.

use std::fmt::Write as _;

use url::Url;

/// The host of a target: a name or an address.
pub use url::Host;

use crate::pattern::Pattern;
use crate::routes::Captures;

/// Longest target URL in bytes.
pub const TARGET_BYTES_MAX: usize = 2_048;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Parameter(usize),
}

/// A checked target. Positions of parameters refer to the endpoint's pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub scheme: Scheme,
    pub host: Host<String>,
    pub port: u16,
    authority: String,
    path: Vec<Piece>,
    query: Option<Vec<Piece>>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TargetFault {
    #[error("a target URL has at most {TARGET_BYTES_MAX} bytes")]
    TooLong,
    #[error("a target URL begins with http:// or https://")]
    Scheme,
    #[error("a target URL may not carry a user name or password")]
    Userinfo,
    #[error("a target URL may not have a fragment ('#')")]
    Fragment,
    #[error("the host of the target URL is not valid: {0}")]
    Host(String),
    #[error("parameters may stand only in the path and the query of a target URL, not in its host")]
    ParameterInHost,
    #[error("'{{{0}}}' in the target URL is not a parameter of the path pattern")]
    UnknownParameter(String),
    #[error("the target URL has an unbalanced brace")]
    Brace,
    #[error("the path of the target URL is not in normal form: {0}")]
    Path(crate::path::PathFault),
    #[error("the query of the target URL has a character that must be percent-encoded")]
    Query,
}

impl Target {
    /// Parses a target URL whose `{name}` placeholders are parameters of `pattern`. Errors: [`TargetFault`].
    pub fn parse(text: &str, pattern: &Pattern) -> Result<Target, TargetFault> {
        if text.len() > TARGET_BYTES_MAX {
            return Err(TargetFault::TooLong);
        }
        let (scheme, rest) = split_scheme(text)?;
        if text.contains('#') {
            return Err(TargetFault::Fragment);
        }
        let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path_and_query) = rest.split_at_checked(authority_end).ok_or(TargetFault::Scheme)?;
        let (host, port) = parse_authority(scheme, authority)?;
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        let path = pieces(if path.is_empty() { "/" } else { path }, pattern)?;
        check_path(&path)?;
        let query = query.map(|query| pieces(query, pattern)).transpose()?;
        check_query(query.as_deref().unwrap_or_default())?;
        let authority = if port == default_port(scheme) { host.to_string() } else { format!("{host}:{port}") };
        Ok(Target { scheme, host, port, authority, path, query })
    }

    /// The path and query to send: parameters put in, the request's own query appended.
    /// `captures` are those of the target's own pattern.
    pub fn render(&self, captures: &Captures<'_>, request_query: Option<&str>) -> String {
        let length: usize = captures.iter().map(str::len).sum();
        let mut out = String::with_capacity(64 + length + request_query.map_or(0, str::len));
        for piece in &self.path {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Parameter(at) => out.push_str(captures.get(*at)),
            }
        }
        let mut separator = '?';
        if let Some(query) = &self.query {
            out.push('?');
            separator = '&';
            for piece in query {
                match piece {
                    Piece::Text(text) => out.push_str(text),
                    Piece::Parameter(at) => encode_query(captures.get(*at), &mut out),
                }
            }
        }
        if let Some(query) = request_query.filter(|query| !query.is_empty()) {
            out.push(separator);
            out.push_str(query);
        }
        out
    }

    /// `host` or `host:port` where the port is not the scheme's own: the `Host` header of the upstream request.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

fn split_scheme(text: &str) -> Result<(Scheme, &str), TargetFault> {
    let (scheme, rest) = text.split_once("://").ok_or(TargetFault::Scheme)?;
    if scheme.eq_ignore_ascii_case("http") {
        Ok((Scheme::Http, rest))
    } else if scheme.eq_ignore_ascii_case("https") {
        Ok((Scheme::Https, rest))
    } else {
        Err(TargetFault::Scheme)
    }
}

fn default_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    }
}

/// Decimal, octal and hexadecimal spellings of an address become the address (WHATWG host parsing).
fn parse_authority(scheme: Scheme, authority: &str) -> Result<(Host<String>, u16), TargetFault> {
    if authority.contains('@') {
        return Err(TargetFault::Userinfo);
    }
    if authority.contains(['{', '}']) {
        return Err(TargetFault::ParameterInHost);
    }
    if authority.contains(|c: char| c.is_whitespace() || c == '\\' || c == '%') {
        return Err(TargetFault::Host("white space, backslashes and escapes are not allowed".to_owned()));
    }
    let url = Url::parse(&format!("http://{authority}/")).map_err(|error| TargetFault::Host(error.to_string()))?;
    let host = url.host().ok_or_else(|| TargetFault::Host("it is empty".to_owned()))?.to_owned();
    // `Url` drops a port of 80 as the default of http; an explicit one is kept by looking at the text.
    let port = if authority.ends_with(":80") { 80 } else { url.port().unwrap_or_else(|| default_port(scheme)) };
    if port == 0 {
        return Err(TargetFault::Host("port 0 cannot be connected to".to_owned()));
    }
    Ok((host, port))
}

fn pieces(text: &str, pattern: &Pattern) -> Result<Vec<Piece>, TargetFault> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or(TargetFault::Brace)?;
        if before.contains('}') || name.contains('{') {
            return Err(TargetFault::Brace);
        }
        let bare = name.strip_prefix('*').unwrap_or(name);
        let position = pattern.parameters().position(|parameter| parameter == bare);
        let position = position.ok_or_else(|| TargetFault::UnknownParameter(name.to_owned()))?;
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        pieces.push(Piece::Parameter(position));
        rest = after;
    }
    if rest.contains('}') {
        return Err(TargetFault::Brace);
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// The fixed text, with a harmless segment in place of each parameter, must already be in normal form.
fn check_path(path: &[Piece]) -> Result<(), TargetFault> {
    let mut sample = String::new();
    for piece in path {
        match piece {
            Piece::Text(text) => sample.push_str(text),
            Piece::Parameter(_) => sample.push('x'),
        }
    }
    match crate::path::normalize(&sample).map_err(TargetFault::Path)? {
        std::borrow::Cow::Borrowed(_) => Ok(()),
        std::borrow::Cow::Owned(_) => Err(TargetFault::Path(crate::path::PathFault::ForbiddenByte)),
    }
}

fn check_query(query: &[Piece]) -> Result<(), TargetFault> {
    let is_query_byte = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`');
    let texts = query.iter().filter_map(|piece| if let Piece::Text(text) = piece { Some(text) } else { None });
    if texts.flat_map(|text| text.bytes()).all(is_query_byte) { Ok(()) } else { Err(TargetFault::Query) }
}

/// Segment bytes that would mean something in a query are encoded; existing escapes stay.
fn encode_query(value: &str, out: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b'/' | b':' | b'@') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::routes::{Found, MethodMatch, ProductRoutes};

    fn pattern() -> Pattern {
        Pattern::parse("/users/{id}/{*rest}").unwrap()
    }

    fn parse(text: &str) -> Result<Target, TargetFault> {
        Target::parse(text, &pattern())
    }

    #[test]
    fn parameters_are_put_into_path_and_query_and_re_encoded() {
        let target = parse("https://api.example.com/v2/u/{id}/x/{*rest}?who={id}&k=v").unwrap();
        let routes = ProductRoutes::compile(&[(MethodMatch::Any, pattern())]).unwrap();
        let Found::Endpoint(_, captures) = routes.find(&Method::GET, "/users/a&b=c/p/q") else { panic!("no endpoint") };
        assert_eq!(target.render(&captures, Some("z=1")), "/v2/u/a&b=c/x/p/q?who=a%26b%3Dc&k=v&z=1");
        assert_eq!((target.port, target.authority()), (443, "api.example.com"));
        let plain = parse("http://h:8080").unwrap();
        assert_eq!(plain.render(&captures, None), "/");
        assert_eq!(plain.render(&captures, Some("q")), "/?q");
        assert_eq!(plain.authority(), "h:8080");
        assert_eq!(parse("https://h:80/").unwrap().port, 80);
    }

    #[test]
    fn every_spelling_of_an_address_is_an_address() {
        for text in ["http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/"] {
            assert_eq!(parse(text).unwrap().host, Host::<String>::Ipv4(std::net::Ipv4Addr::LOCALHOST), "{text}");
        }
        assert!(matches!(parse("http://[::1]:9/").unwrap().host, Host::Ipv6(_)));
    }

    #[test]
    fn each_fault_is_named() {
        for (text, fault) in [
            ("ftp://h/", TargetFault::Scheme),
            ("h/", TargetFault::Scheme),
            ("http://u:p@h/", TargetFault::Userinfo),
            ("http://h/#f", TargetFault::Fragment),
            ("http://{id}/", TargetFault::ParameterInHost),
            ("http://h/{nope}", TargetFault::UnknownParameter("nope".into())),
            ("http://h/{id", TargetFault::Brace),
            ("http://h/id}", TargetFault::Brace),
            ("http://h/a?b c", TargetFault::Query),
            ("http://h/a/../b", TargetFault::Path(crate::path::PathFault::ForbiddenByte)),
            ("http://h//a", TargetFault::Path(crate::path::PathFault::EmptySegment)),
        ] {
            assert_eq!(parse(text), Err(fault), "{text}");
        }
        for text in ["http:///x", "http://a b/", "http://h:99999/", "http://h:0/", "http://%68/"] {
            assert!(matches!(parse(text), Err(TargetFault::Host(_))), "{text}");
        }
    }
}
