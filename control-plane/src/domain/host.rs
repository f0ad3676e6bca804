//! A product's own host name. Anyone may claim one; it serves only once its owner proved it. Resolves nothing.

use super::fault::Flaw;

/// Longest host name of the DNS.
const HOST_CHARS_MAX: usize = 253;
const LABEL_CHARS_MAX: usize = 63;
/// Claims of one product, proved or not: bounds the rows and the proofs that one product can cause.
pub const HOSTS_PER_PRODUCT_MAX: i64 = 32;
/// Random base62 digits in a challenge.
pub const CHALLENGE_DIGITS: usize = 32;
/// Where the owner shows the challenge.
pub const CHALLENGE_PATH: &str = "/.well-known/apihub-challenge";

/// A lower-case DNS name of at least two labels, never an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    pub fn parse(text: &str) -> Result<HostName, Flaw> {
        let host = text.to_ascii_lowercase();
        let labels: Vec<&str> = host.split('.').collect();
        let is_address = labels.last().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
        if host.len() > HOST_CHARS_MAX || labels.len() < 2 || !labels.iter().all(|label| is_label(label)) || is_address
        {
            let mend = "give a DNS name such as 'api.example.com', without scheme, port or path";
            return Err(Flaw::new("this is not a host name").mend(mend));
        }
        Ok(HostName(host))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(label: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=LABEL_CHARS_MAX).contains(&label.len())
        && label.bytes().all(fits)
        && !label.starts_with('-')
        && !label.ends_with('-')
}
