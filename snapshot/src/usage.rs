//! What both planes call things in the Redis that usage passes through. Connects to nothing.

use uuid::Uuid;

/// The stream of what happens now: gateways append to it, every control plane reads it for itself.
pub const LIVE_STREAM: &str = "usage:live";

/// Where the control plane tells a gateway up to which batch of an epoch the database has them all.
pub fn acknowledgement_key(node: Uuid, epoch: Uuid) -> String {
    format!("usage:ack:{node}:{epoch}")
}
