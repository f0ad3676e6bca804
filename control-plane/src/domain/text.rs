//! Texts that people give: slugs, names, descriptions, categories, scopes. Parsed once; refuses control characters and
//! whatever the database would refuse.

use super::fault::Flaw;

const SLUG_CHARS_MIN: usize = 2;
const SLUG_CHARS_MAX: usize = 40;
const NAME_CHARS_MAX: usize = 120;
const CATEGORY_CHARS_MAX: usize = 60;
/// Readable text of a product's page.
pub const DESCRIPTION_CHARS_MAX: usize = 20_000;
/// Readable text of a plan.
pub const PLAN_DESCRIPTION_CHARS_MAX: usize = 4_000;
/// A note beside a release or a subscription.
pub const NOTE_CHARS_MAX: usize = 2_000;
/// Longest scope, and the most of them that a key may carry.
const SCOPE_CHARS_MAX: usize = 64;
const SCOPES_MAX: usize = 32;

/// Words that no organization may have: the gateway and the dashboard need them as first segments.
pub const RESERVED_SLUGS: &[&str] = &[
    "admin",
    "api",
    "assets",
    "catalog",
    "docs",
    "health",
    "healthz",
    "hub",
    "livez",
    "login",
    "metrics",
    "readyz",
    "static",
    "v1",
    "well-known",
];

/// Part of an address: lower-case letters and digits, single dashes between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slug(String);

/// One line that names something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

/// Text of several lines, possibly empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prose(String);

/// What an endpoint asks of a key, as in `orders:read`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(String);

impl Slug {
    pub fn parse(text: &str) -> Result<Slug, Flaw> {
        let mend = "use 2 to 40 lower-case letters and digits, with single dashes between them, as in 'weather-api'";
        let length_fits = (SLUG_CHARS_MIN..=SLUG_CHARS_MAX).contains(&text.len());
        let characters_fit = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let dashes_fit = !text.starts_with('-') && !text.ends_with('-') && !text.contains("--");
        if !(length_fits && characters_fit && dashes_fit) {
            return Err(Flaw::new("this is not a slug").mend(mend));
        }
        Ok(Slug(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Name {
    pub fn parse(text: &str) -> Result<Name, Flaw> {
        line(text, NAME_CHARS_MAX).map(Name)
    }

    /// A product's category: a shorter name.
    pub fn parse_category(text: &str) -> Result<Name, Flaw> {
        line(text, CATEGORY_CHARS_MAX).map(Name)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Prose {
    pub fn parse(text: &str, chars_max: usize) -> Result<Prose, Flaw> {
        if text.chars().count() > chars_max {
            return Err(Flaw::new(format!("this text is longer than {chars_max} characters")).mend("shorten it"));
        }
        let is_bad = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
        if text.contains(is_bad) {
            return Err(Flaw::new("this text has control characters").mend("remove them"));
        }
        Ok(Prose(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scope {
    pub fn parse(text: &str) -> Result<Scope, Flaw> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'.' | b'_' | b'-' | b'/');
        if text.is_empty() || text.len() > SCOPE_CHARS_MAX || !text.bytes().all(fits) {
            let mend = "use 1 to 64 letters, digits and ':', '.', '_', '-', '/', as in 'orders:read'";
            return Err(Flaw::new("this is not a scope").mend(mend));
        }
        Ok(Scope(text.to_owned()))
    }

    /// The scopes of a key, each once, in the order given.
    pub fn parse_all(texts: &[String]) -> Result<Vec<Scope>, Flaw> {
        if texts.len() > SCOPES_MAX {
            return Err(Flaw::new(format!("a key has at most {SCOPES_MAX} scopes")));
        }
        let mut scopes: Vec<Scope> = Vec::with_capacity(texts.len());
        for text in texts {
            let scope = Scope::parse(text)?;
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        Ok(scopes)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn line(text: &str, chars_max: usize) -> Result<String, Flaw> {
    let text = text.trim();
    let length = text.chars().count();
    if length == 0 || length > chars_max || text.contains(char::is_control) {
        return Err(Flaw::new("this is not a name").mend(format!("use one line of 1 to {chars_max} characters")));
    }
    Ok(text.to_owned())
}
