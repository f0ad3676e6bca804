//! Proves that a product's owner rules a host: fetches the challenge over plain HTTP from port 80. Connects only where the
//! operator's address rules allow, follows no redirect, and reads no more than it needs.

use std::net::SocketAddr;
use std::time::Duration;

use snapshot::guard::{AddressPolicy, ForbiddenAddress};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::domain::host::CHALLENGE_PATH;

#[cfg(test)]
mod tests;

const HTTP_PORT: u16 = 80;
/// The whole of it: name, connection, answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Head and body of the answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 8 * 1024;
/// Addresses of a name that are looked at.
const ADDRESSES_MAX: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum ProofFault {
    #[error("the host's name does not resolve")]
    Unresolved,
    #[error("the host leads to a forbidden address: {0}")]
    Forbidden(#[from] ForbiddenAddress),
    #[error("the host did not answer within {} seconds", PATIENCE.as_secs())]
    TooSlow,
    #[error("the host cannot be reached: {0}")]
    Unreachable(std::io::Error),
    #[error("the host did not answer 200 with the challenge")]
    WrongAnswer,
}

/// Asks the host for `challenge`. Errors: [`ProofFault`], worded for the owner.
pub async fn fetch(host: &str, challenge: &str, addresses: &AddressPolicy) -> Result<(), ProofFault> {
    let attempt = async {
        let found = tokio::net::lookup_host((host, HTTP_PORT)).await.map_err(|_| ProofFault::Unresolved)?;
        ask(&found.take(ADDRESSES_MAX).collect::<Vec<_>>(), host, challenge, addresses).await
    };
    tokio::time::timeout(PATIENCE, attempt).await.unwrap_or(Err(ProofFault::TooSlow))
}

/// One forbidden address refuses the name, as it does in the gateway.
async fn ask(found: &[SocketAddr], host: &str, challenge: &str, addresses: &AddressPolicy) -> Result<(), ProofFault> {
    addresses.check_all(found)?;
    let first = found.first().ok_or(ProofFault::Unresolved)?;
    let mut stream = TcpStream::connect(first).await.map_err(ProofFault::Unreachable)?;
    let request =
        format!("GET {CHALLENGE_PATH} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: apihub\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(ProofFault::Unreachable)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.map_err(ProofFault::Unreachable)?;
    if shows(&answer, challenge) { Ok(()) } else { Err(ProofFault::WrongAnswer) }
}

/// An HTTP/1.0 request gets no chunked answer, so the body is what follows the head.
fn shows(answer: &[u8], challenge: &str) -> bool {
    let Ok(text) = std::str::from_utf8(answer) else { return false };
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    head.split(' ').nth(1) == Some("200") && body.trim() == challenge
}
