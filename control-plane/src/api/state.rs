//! What every handler may use. Cheap to clone; refuses to hold anything of a single request.

use std::sync::Arc;

use crate::changes::Revisions;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::passwords::Passwords;
use crate::settings::Settings;
use crate::store::Store;
use crate::throttle::Throttles;

#[derive(Clone)]
pub struct AppState {
    pub settings: Arc<Settings>,
    pub store: Store,
    pub revisions: Revisions,
    pub passwords: Passwords,
    pub throttles: Throttles,
    pub metrics: Metrics,
    pub live: Live,
    pub readiness: crate::api::health::Readiness,
}
