//! One conversation with one control plane: says what is served, takes in what comes, acknowledges each swap. Compiles away
//! from the async threads. Ends with a fault, always; who follows decides what to do next.

use std::time::Duration;

use snapshot::features;
use snapshot::token::Token;
use snapshot::wire::feed_client::FeedClient;
use snapshot::wire::{self, FEED_MESSAGE_BYTES_MAX, FromGateway, ToGateway, from_gateway};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status, Streaming};
use tracing::info;

use super::assembly::{Assembly, AssemblyFault, Step};
use super::building::Building;
use super::control_plane::{ControlPlane, ControlPlaneFault};
use super::{FeedSettings, note_served};
use crate::clock::unix_ms;
use crate::live::{Live, Snapshot};
use crate::metrics::Metrics;
use crate::metrics::status::PartState;
use crate::upstream::Upstreams;

/// A control plane that says nothing for this long, not even a heartbeat, is taken for gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long the answer to the first call may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Acknowledgements that wait to be sent. They follow swaps, so a control plane that does not read them is gone.
const OUTBOX_MAX: usize = 64;

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum FeedFault {
    #[error(transparent)]
    Setup(#[from] ControlPlaneFault),
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("refused: {0}")]
    Refused(String),
    #[error("the control plane ended the conversation")]
    Ended,
    #[error("silent for {} seconds", SILENCE_MAX.as_secs())]
    Silence,
    #[error(transparent)]
    Assembly(#[from] AssemblyFault),
    #[error("the compilation of a snapshot crashed")]
    Crashed,
}

pub(super) struct Conversation<'a> {
    live: &'a Live,
    settings: &'a FeedSettings,
    metrics: &'a Metrics,
    upstreams: &'a Upstreams,
    must_have_full: bool,
    learnt: bool,
    /// What this control plane last called the newest.
    newest: Option<Token>,
    /// The full snapshot that is arriving.
    building: Option<Building>,
}

impl<'a> Conversation<'a> {
    /// `must_have_full`: say that nothing is served, so that a full snapshot comes.
    pub(super) fn new(
        live: &'a Live,
        settings: &'a FeedSettings,
        metrics: &'a Metrics,
        upstreams: &'a Upstreams,
        must_have_full: bool,
    ) -> Conversation<'a> {
        Conversation { live, settings, metrics, upstreams, must_have_full, learnt: false, newest: None, building: None }
    }

    pub(super) fn must_have_full(&self) -> bool {
        self.must_have_full
    }

    /// Whether this control plane was of use: it brought another snapshot, or confirmed that what is served is the newest.
    pub(super) fn has_learnt(&self) -> bool {
        self.learnt
    }

    /// Holds the conversation until it ends.
    pub(super) async fn hold(&mut self, plane: &ControlPlane) -> FeedFault {
        match self.try_hold(plane).await {
            Ok(never) => match never {},
            Err(fault) => fault,
        }
    }

    async fn try_hold(&mut self, plane: &ControlPlane) -> Result<std::convert::Infallible, FeedFault> {
        let (outbox, mut inbox) = self.begin(plane).await?;
        self.metrics.config.feed_connects_total.inc();
        self.metrics.status.set_feed(PartState::Up);
        info!(%plane, "following");
        let mut assembly = Assembly::default();
        loop {
            let message = timeout(SILENCE_MAX, inbox.message()).await.map_err(|_| FeedFault::Silence)?;
            let message = message.map_err(refused)?.ok_or(FeedFault::Ended)?;
            let served = self.live.load().token;
            let step = assembly.take(message.message, served)?;
            self.take_step(step, &outbox).await?;
        }
    }

    async fn begin(
        &self,
        plane: &ControlPlane,
    ) -> Result<(mpsc::Sender<FromGateway>, Streaming<ToGateway>), FeedFault> {
        let endpoint = plane.endpoint(self.settings.ca_pem.as_deref())?;
        let channel = endpoint.connect().await.map_err(|error| FeedFault::Connect(causes(&error)))?;
        let mut client = FeedClient::new(channel)
            .max_decoding_message_size(FEED_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(FEED_MESSAGE_BYTES_MAX);
        let (outbox, messages) = mpsc::channel(OUTBOX_MAX);
        say(&outbox, from_gateway::Message::Hello(self.hello()))?;
        let mut request = Request::new(ReceiverStream::new(messages));
        if let Some(token) = &self.settings.token {
            request.metadata_mut().insert("authorization", bearer(token.expose())?);
        }
        let answer = timeout(ANSWER_TIMEOUT, client.follow(request)).await.map_err(|_| FeedFault::Silence)?;
        Ok((outbox, answer.map_err(refused)?.into_inner()))
    }

    fn hello(&self) -> wire::Hello {
        let identity = &self.settings.identity;
        let have = self.live.load().token.filter(|_| !self.must_have_full);
        wire::Hello {
            node_id: identity.node_id.as_bytes().to_vec(),
            node_name: identity.node_name.clone(),
            boot_id: identity.boot_id.as_bytes().to_vec(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: wire::PROTOCOL,
            features: features::KNOWN.iter().map(|name| (*name).to_owned()).collect(),
            have: have.map(wire::Token::from),
        }
    }

    async fn take_step(&mut self, step: Step, outbox: &mpsc::Sender<FromGateway>) -> Result<(), FeedFault> {
        match step {
            Step::Wait => Ok(()),
            Step::Newest(newest) => {
                self.metrics.status.set_newest(newest, unix_ms());
                self.newest = Some(newest);
                if self.live.load().token == Some(newest) {
                    self.learnt = true;
                    self.metrics.status.set_caught_up();
                }
                Ok(())
            }
            Step::Begin(token) => {
                self.building = Some(Building::begin(self.live, token));
                Ok(())
            }
            Step::Records(records) => match self.building.as_mut() {
                Some(building) => building.take(records).await,
                None => Err(FeedFault::Crashed),
            },
            Step::Full(token) => {
                let building = self.building.take().ok_or(FeedFault::Crashed)?;
                let (snapshot, refusals, count) = building.finish().await?;
                self.swap(token, snapshot, refusals, outbox).await?;
                (self.must_have_full, self.learnt) = (false, true);
                info!(revision = token.revision, records = count, "took in a full snapshot");
                Ok(())
            }
            Step::Delta { token, changes } => {
                let old = self.live.load();
                let compiled = spawn_blocking(move || old.apply(token, &changes)).await;
                let (snapshot, refusals) = compiled.map_err(|_| FeedFault::Crashed)?;
                self.swap(token, snapshot, refusals, outbox).await?;
                self.learnt = true;
                Ok(())
            }
        }
    }

    /// Has the new names of a compiled snapshot resolved, puts it in the running one's place, acknowledges.
    async fn swap(
        &self,
        token: Token,
        snapshot: Snapshot,
        refusals: Vec<wire::Refusal>,
        outbox: &mpsc::Sender<FromGateway>,
    ) -> Result<(), FeedFault> {
        self.upstreams.prepare(&self.live.load(), &snapshot).await;
        self.live.store(snapshot);
        note_served(self.metrics, token, refusals.len());
        // A change may overtake the notice of the newest: the gateway stands there, or beyond.
        if self.newest.is_some_and(|newest| newest.epoch == token.epoch && newest.revision <= token.revision) {
            self.metrics.status.set_caught_up();
        }
        say(outbox, from_gateway::Message::Ack(wire::Ack { served: Some(token.into()), refusals }))
    }
}

fn say(outbox: &mpsc::Sender<FromGateway>, message: from_gateway::Message) -> Result<(), FeedFault> {
    outbox.try_send(FromGateway { message: Some(message) }).map_err(|_| FeedFault::Ended)
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, FeedFault> {
    let mut value = MetadataValue::try_from(format!("Bearer {token}"))
        .map_err(|_| FeedFault::Refused("the feed token is not printable ASCII".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn refused(status: Status) -> FeedFault {
    FeedFault::Refused(format!("{:?}: {}", status.code(), status.message()))
}

/// The error and what caused it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
