//! The form of an API key: `<brand>_<live|test>_<30 base62>_<6 base62 of CRC-32>`. The checksum turns typos and floods
//! away before any hash is computed; the digest is all that is ever stored or sent. No key is kept here.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// 30 base62 digits carry 178 bits; the floor of the design is 160.
const RANDOM_DIGITS: usize = 30;
const CHECK_DIGITS: usize = 6;
/// Longest brand: keeps a whole key under 64 bytes.
const BRAND_BYTES_MAX: usize = 16;
/// No key is longer; a header beyond it is turned away unread.
pub const KEY_BYTES_MAX: usize = BRAND_BYTES_MAX + 1 + 4 + 1 + RANDOM_DIGITS + 1 + CHECK_DIGITS;
/// Shown in lists so that an owner recognises a key: `<brand>_<live|test>_` and this many random digits.
const PREFIX_DIGITS: usize = 4;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// SHA-256 of the whole key as sent. Safe to store and to send: the key has too many random bits to guess.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest(pub [u8; 32]);

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, ..] = self.0;
        write!(f, "KeyDigest({a:02x}{b:02x}{c:02x}…)")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Environment {
    Live,
    Test,
}

impl Environment {
    pub fn as_str(self) -> &'static str {
        match self {
            Environment::Live => "live",
            Environment::Test => "test",
        }
    }
}

/// A key just made. It is shown once and then forgotten; `Debug` never prints it.
pub struct MintedKey {
    secret: String,
    pub prefix: String,
    pub last_four: String,
    pub digest: KeyDigest,
}

impl MintedKey {
    /// The key itself, for the one answer that shows it.
    pub fn reveal(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for MintedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MintedKey({}…{})", self.prefix, self.last_four)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyFault {
    #[error("the key does not have the form <brand>_<live|test>_<30 characters>_<6 characters>")]
    Form,
    #[error("the key's checksum does not match: it was mistyped or cut")]
    Checksum,
}

#[derive(Debug, thiserror::Error)]
pub enum MintFault {
    #[error("a brand has 1 to {BRAND_BYTES_MAX} lower-case letters or digits")]
    Brand,
    #[error("the system's random source failed: {0}")]
    Random(getrandom::Error),
}

/// Makes a key from the system's random source.
pub fn mint(brand: &str, environment: Environment) -> Result<MintedKey, MintFault> {
    if !is_brand(brand.as_bytes()) {
        return Err(MintFault::Brand);
    }
    let random = random_digits(RANDOM_DIGITS).map_err(MintFault::Random)?;
    let body = format!("{brand}_{}_{random}", environment.as_str());
    let secret = format!("{body}_{}", check_digits(body.as_bytes()));
    let prefix: String = body.chars().take(body.len() - RANDOM_DIGITS + PREFIX_DIGITS).collect();
    let last_four: String = secret.chars().skip(secret.len() - 4).collect();
    let digest = digest(secret.as_bytes());
    Ok(MintedKey { secret, prefix, last_four, digest })
}

/// Checks form and checksum, then digests. No allocation. Errors: [`KeyFault`].
pub fn parse(key: &[u8]) -> Result<(Environment, KeyDigest), KeyFault> {
    if key.len() > KEY_BYTES_MAX {
        return Err(KeyFault::Form);
    }
    let mut parts = key.split(|&byte| byte == b'_');
    let (Some(brand), Some(environment), Some(random), Some(check), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(KeyFault::Form);
    };
    let environment = match environment {
        b"live" => Environment::Live,
        b"test" => Environment::Test,
        _ => return Err(KeyFault::Form),
    };
    let digits = |part: &[u8]| part.iter().all(u8::is_ascii_alphanumeric);
    if !is_brand(brand) || random.len() != RANDOM_DIGITS || !digits(random) || check.len() != CHECK_DIGITS {
        return Err(KeyFault::Form);
    }
    let body = key.get(..key.len() - CHECK_DIGITS - 1).ok_or(KeyFault::Form)?;
    if check_value(body) != *check {
        return Err(KeyFault::Checksum);
    }
    Ok((environment, digest(key)))
}

/// SHA-256 of the bytes as sent.
pub fn digest(key: &[u8]) -> KeyDigest {
    KeyDigest(Sha256::digest(key).into())
}

/// `count` unbiased base62 digits from the system's random source.
pub fn random_digits(count: usize) -> Result<String, getrandom::Error> {
    let mut digits = String::with_capacity(count);
    let mut buffer = [0u8; 64];
    while digits.len() < count {
        getrandom::fill(&mut buffer)?;
        // 248 = 4 × 62: bytes above it would favour the first digits.
        for &byte in buffer.iter().filter(|&&byte| byte < 248) {
            if let Some(&digit) = ALPHABET.get(usize::from(byte % 62)) {
                digits.push(char::from(digit));
            }
            if digits.len() == count {
                break;
            }
        }
    }
    Ok(digits)
}

fn is_brand(brand: &[u8]) -> bool {
    (1..=BRAND_BYTES_MAX).contains(&brand.len())
        && brand.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn check_digits(body: &[u8]) -> String {
    check_value(body).iter().map(|&byte| char::from(byte)).collect()
}

fn check_value(body: &[u8]) -> [u8; CHECK_DIGITS] {
    let mut rest = crc32fast::hash(body) as usize;
    let mut digits = [b'0'; CHECK_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET.get(rest % 62).copied().unwrap_or(b'0');
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_key_parses_to_the_digest_that_is_stored() {
        let minted = mint("hub", Environment::Live).unwrap();
        assert_eq!(parse(minted.reveal().as_bytes()), Ok((Environment::Live, minted.digest)));
        assert!(minted.reveal().starts_with(&minted.prefix));
        assert!(minted.reveal().ends_with(&minted.last_four));
        assert!(!format!("{minted:?}").contains(minted.reveal()));
    }

    #[test]
    fn every_single_character_typo_is_caught() {
        let minted = mint("hub", Environment::Test).unwrap();
        let good = minted.reveal().as_bytes();
        for at in 0..good.len() {
            for digit in ALPHABET {
                let mut bad = good.to_vec();
                if bad[at] == *digit {
                    continue;
                }
                bad[at] = *digit;
                assert!(parse(&bad).is_err(), "{:?}", String::from_utf8_lossy(&bad));
            }
        }
    }

    #[test]
    fn malformed_keys_are_refused_without_a_panic() {
        for bad in ["", "_", "___", "hub_live__", "hub_prod_x_y", "Hub_live_a_b", "a_b_c_d_e", &"x".repeat(500)] {
            assert_eq!(parse(bad.as_bytes()), Err(KeyFault::Form), "{bad}");
        }
        assert!(mint("Bad Brand", Environment::Live).is_err());
    }

    #[test]
    fn the_format_never_changes() {
        let key = b"hub_live_000000000000000000000000000000_";
        let body = &key[..key.len() - 1];
        let whole = [body, b"_", &check_value(body)[..]].concat();
        assert_eq!(String::from_utf8(whole.clone()).unwrap(), "hub_live_000000000000000000000000000000_04hbbo");
        assert!(parse(&whole).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }
    }
}
