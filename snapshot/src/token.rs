//! A point in the history of changes: (feed epoch, revision). A restore from backup starts a new epoch, so that a
//! revision is never compared with one of another history.

use uuid::Uuid;

use crate::wire;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub epoch: Uuid,
    pub revision: u64,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a token's epoch has {0} bytes instead of 16")]
pub struct TokenFault(usize);

impl TryFrom<&wire::Token> for Token {
    type Error = TokenFault;
    fn try_from(wire: &wire::Token) -> Result<Self, TokenFault> {
        let epoch = Uuid::from_slice(&wire.epoch).map_err(|_| TokenFault(wire.epoch.len()))?;
        Ok(Token { epoch, revision: wire.revision })
    }
}

impl From<Token> for wire::Token {
    fn from(token: Token) -> Self {
        wire::Token { epoch: token.epoch.as_bytes().to_vec(), revision: token.revision }
    }
}
