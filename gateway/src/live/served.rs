//! A key and a subscription as a request holds them: the key by value, with the way to its subscription; the subscription with
//! its number. Judges neither.

use std::ops::Deref;
use std::sync::Arc;

use ::snapshot::key::Environment;
use ::snapshot::record::Subscription;
use uuid::Uuid;

use super::keys::KeyTag;

/// What a key may be used for. Empty: every endpoint.
#[derive(Clone, Debug, Default)]
pub struct ScopeSet(pub(super) Option<Arc<[String]>>);

#[derive(Clone, Debug)]
pub struct ServedKey {
    pub id: Uuid,
    pub meter_id: u64,
    pub tag: KeyTag,
    pub environment: Environment,
    pub expires_at_ms: Option<i64>,
    pub scopes: ScopeSet,
    /// Its subscription's number in the snapshot that the key was found in; in no other.
    pub(super) subscription: u32,
}

#[derive(Debug)]
pub struct ServedSubscription {
    /// Small, and the same for as long as the subscription or a key of it is there, across changes; a full snapshot numbers
    /// anew. Good as an index, where the thing found says whose it is.
    pub number: u32,
    /// In the snapshot's plans.
    pub(super) plan: u32,
    pub(super) record: Subscription,
}

impl Deref for ScopeSet {
    type Target = [String];
    fn deref(&self) -> &[String] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Deref for ServedSubscription {
    type Target = Subscription;
    fn deref(&self) -> &Subscription {
        &self.record
    }
}
