//! The secrets that callers show: session tokens and access tokens. Made from the system's random source, stored as digests,
//! shown once. Refuses to print them.

use sha2::{Digest as _, Sha256};
use snapshot::key::random_digits;

/// 43 base62 digits carry 256 bits.
const RANDOM_DIGITS: usize = 43;
/// What an access token begins with, so that scanners recognise a leaked one.
pub const ACCESS_TOKEN_PREFIX: &str = "apihub_pat_";
/// What a one-time ticket for a live connection begins with.
pub const LIVE_TICKET_PREFIX: &str = "apihub_live_";
/// Digits after the prefix that lists show.
const SHOWN_DIGITS: usize = 4;
/// No token of ours is longer; a header beyond it is refused unread.
pub const TOKEN_BYTES_MAX: usize = 128;

#[derive(Debug, thiserror::Error)]
#[error("the system's random source failed: {0}")]
pub struct RandomFault(getrandom::Error);

/// A token just made.
pub struct Minted {
    secret: String,
    pub digest: Vec<u8>,
    /// Recognises it in a list.
    pub prefix: String,
}

impl Minted {
    /// The token itself, for the one answer that shows it.
    pub fn reveal(&self) -> &str {
        &self.secret
    }
}

impl std::fmt::Debug for Minted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Minted({}…)", self.prefix)
    }
}

pub fn mint_session() -> Result<Minted, RandomFault> {
    mint("")
}

pub fn mint_access_token() -> Result<Minted, RandomFault> {
    mint(ACCESS_TOKEN_PREFIX)
}

pub fn mint_live_ticket() -> Result<Minted, RandomFault> {
    mint(LIVE_TICKET_PREFIX)
}

/// SHA-256 needs no salt here: the token has too many random bits to guess.
pub fn digest(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

fn mint(prefix: &str) -> Result<Minted, RandomFault> {
    let secret = format!("{prefix}{}", random_digits(RANDOM_DIGITS).map_err(RandomFault)?);
    let shown = secret.chars().take(prefix.len() + SHOWN_DIGITS).collect();
    Ok(Minted { digest: digest(&secret), prefix: shown, secret })
}
