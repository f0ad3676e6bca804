//! Accounts: e-mail addresses, names, slugs, roles, scopes, each parsed once into a type that cannot be wrong. Refuses to
//! know who has what.

use crate::domain::fault::Flaw;
use crate::domain::text::{RESERVED_SLUGS, Slug};

#[cfg(test)]
mod tests;

const EMAIL_CHARS_MAX: usize = 254;
const SLUG_CHARS_MAX: usize = 40;
const TIME_ZONE_CHARS_MAX: usize = 64;

/// An address as typed, trimmed; compared without regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    pub fn parse(text: &str) -> Result<Email, Flaw> {
        let text = text.trim();
        if text.chars().count() > EMAIL_CHARS_MAX {
            return Err(Flaw::new(format!("has more than {EMAIL_CHARS_MAX} characters")).mend("use a shorter address"));
        }
        let is_plain = !text.chars().any(|c| c.is_whitespace() || c.is_control());
        let is_address = text.split_once('@').is_some_and(|(local, host)| {
            !local.is_empty() && !host.is_empty() && !host.contains('@') && local.len() <= 64
        });
        if is_plain && is_address {
            return Ok(Email(text.to_owned()));
        }
        Err(Flaw::new("is not an e-mail address").mend("write it as `ann@example.com`"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn local_part(&self) -> &str {
        self.0.split_once('@').map_or("", |(local, _)| local)
    }
}

/// The slug of an organization is a first path segment of the gateway, so some words are not to be had.
pub fn parse_organization_slug(text: &str) -> Result<Slug, Flaw> {
    let slug = Slug::parse(text)?;
    if RESERVED_SLUGS.contains(&text) {
        return Err(Flaw::new("this word is reserved").mend("choose another"));
    }
    Ok(slug)
}

/// A slug out of what a person typed; `None` when too little remains.
pub fn slug_from_text(text: &str) -> Option<Slug> {
    let mut slug = String::new();
    for c in text.to_lowercase().chars() {
        if slug.len() >= SLUG_CHARS_MAX {
            break;
        }
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    parse_organization_slug(slug.trim_matches('-')).ok()
}

/// A slug with a suffix, cut so that both fit.
pub fn slug_with_suffix(slug: &Slug, suffix: &str) -> Option<Slug> {
    let room = SLUG_CHARS_MAX.saturating_sub(suffix.len() + 1);
    let stem: String = slug.as_str().chars().take(room).collect();
    parse_organization_slug(&format!("{}-{suffix}", stem.trim_matches('-'))).ok()
}

/// ISO 4217, upper case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Currency(String);

impl Currency {
    pub fn parse(text: &str) -> Result<Currency, Flaw> {
        if text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase()) {
            return Ok(Currency(text.to_owned()));
        }
        Err(Flaw::new("is not a currency").mend("write its three capital letters, as in `EUR`"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A zone by its IANA name. Postgres has the last word on which exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeZoneName(String);

impl TimeZoneName {
    pub fn parse(text: &str) -> Result<TimeZoneName, Flaw> {
        let is_name = (1..=TIME_ZONE_CHARS_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-+".contains(&b));
        // Forms such as `EST5EDT4` are POSIX rules, which Postgres would take for anything.
        let is_iana = text == "UTC" || text.contains('/');
        if is_name && is_iana {
            return Ok(TimeZoneName(text.to_owned()));
        }
        Err(TimeZoneName::unknown())
    }

    pub fn unknown() -> Flaw {
        Flaw::new("is not a time zone").mend("write its IANA name, as in `Europe/Berlin` or `UTC`")
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a member may do in an organization; ordered from least to most.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Viewer,
    Developer,
    Admin,
    Owner,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Developer => "developer",
            Role::Admin => "admin",
            Role::Owner => "owner",
        }
    }

    pub fn from_stored(text: &str) -> Option<Role> {
        [Role::Viewer, Role::Developer, Role::Admin, Role::Owner].into_iter().find(|role| role.as_str() == text)
    }
}

/// What an access token may do; each holds the ones before it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Look.
    Read,
    /// Change products, plans, subscriptions and keys.
    Write,
    /// Change members, organizations, tokens; act as an operator where the user is one.
    Admin,
}

impl Scope {
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Write => "write",
            Scope::Admin => "admin",
        }
    }

    pub fn from_stored(text: &str) -> Option<Scope> {
        [Scope::Read, Scope::Write, Scope::Admin].into_iter().find(|scope| scope.as_str() == text)
    }
}
