//! The secrets that callers show: session tokens and access tokens. Made from the system's random source, stored as digests,
//! shown once. Refuses to print them.

use sha2::{Digest as _, Sha256};

/// 43 base62 digits carry 256 bits.
const RANDOM_DIGITS: usize = 43;
/// What an access token begins with, so that scanners recognise a leaked one.
pub const ACCESS_TOKEN_PREFIX: &str = "apihub_pat_";
/// Digits after the prefix that lists show.
const SHOWN_DIGITS: usize = 4;
/// No token of ours is longer; a header beyond it is refused unread.
pub const TOKEN_BYTES_MAX: usize = 128;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The largest multiple of 62 in a byte: bytes from here on would favour the first digits.
const FAIR_BYTES: u8 = 248;

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

/// SHA-256 needs no salt here: the token has too many random bits to guess.
pub fn digest(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

fn mint(prefix: &str) -> Result<Minted, RandomFault> {
    let secret = format!("{prefix}{}", random_digits()?);
    let shown = secret.chars().take(prefix.len() + SHOWN_DIGITS).collect();
    Ok(Minted { digest: digest(&secret), prefix: shown, secret })
}

fn random_digits() -> Result<String, RandomFault> {
    let mut digits = String::with_capacity(RANDOM_DIGITS);
    let mut bytes = [0; 64];
    // 97 of 100 bytes are fair, so one or two rounds do.
    while digits.len() < RANDOM_DIGITS {
        getrandom::fill(&mut bytes).map_err(RandomFault)?;
        let fair = bytes.iter().filter(|byte| **byte < FAIR_BYTES);
        let missing = RANDOM_DIGITS - digits.len();
        digits
            .extend(fair.filter_map(|byte| ALPHABET.get(usize::from(byte % 62))).take(missing).map(|b| char::from(*b)));
    }
    Ok(digits)
}
