//! The shared secret of the feed, compared in constant time. Keeps only its digest.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tonic::Status;
use tonic::metadata::MetadataMap;

#[derive(Clone)]
pub struct Bearer {
    digest: [u8; 32],
}

impl Bearer {
    pub fn new(secret: &str) -> Bearer {
        Bearer { digest: Sha256::digest(secret).into() }
    }

    /// Errors: `UNAUTHENTICATED`, which does not say what was wrong.
    pub(super) fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let shown = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let digest: [u8; 32] = Sha256::digest(shown).into();
        if bool::from(digest.ct_eq(&self.digest)) {
            Ok(())
        } else {
            Err(Status::unauthenticated("the feed needs its bearer token"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_is_let_in() {
        let bearer = Bearer::new("right");
        let check = |value: Option<&'static str>| {
            let mut metadata = MetadataMap::new();
            if let Some(value) = value {
                metadata.insert("authorization", value.parse().unwrap());
            }
            bearer.check(&metadata).map_err(|status| status.code())
        };
        assert_eq!(check(Some("Bearer right")), Ok(()));
        for wrong in
            [None, Some("Bearer wrong"), Some("Bearer "), Some("right"), Some("Bearer right "), Some("bearer right")]
        {
            assert_eq!(check(wrong), Err(tonic::Code::Unauthenticated), "{wrong:?}");
        }
    }
}
