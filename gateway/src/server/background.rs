//! The tasks beside the requests, each in a service of its own: the feed, the resolver, the usage shipper, the limiter's driver,
//! the certificate. They end when nothing is in flight any more, not when the listeners close.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::mpsc::Sender;

use async_trait::async_trait;
use pingora_core::server::{Server, ShutdownWatch};
use pingora_core::services::background::{BackgroundService, background_service};
use tokio::sync::watch;

use crate::lock::lock;

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;
type Start = Box<dyn FnOnce(watch::Receiver<bool>) -> Boxed + Send>;

/// Hands tasks to the server, and to each the same sign to stop.
pub(super) struct Tasks<'a> {
    pub(super) server: &'a mut Server,
    pub(super) stop: watch::Receiver<bool>,
    /// Each task holds one; the last one dropped says that all have ended.
    pub(super) done: Sender<()>,
}

impl Tasks<'_> {
    /// `start` is called within the runtime that runs the task.
    pub(super) fn add<F>(&mut self, name: &str, start: impl FnOnce(watch::Receiver<bool>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let start: Start = Box::new(move |stop| Box::pin(start(stop)));
        let task = Task { start: Mutex::new(Some((start, self.done.clone()))), stop: self.stop.clone() };
        self.server.add_service(background_service(name, task));
    }
}

struct Task {
    start: Mutex<Option<(Start, Sender<()>)>>,
    stop: watch::Receiver<bool>,
}

#[async_trait]
impl BackgroundService for Task {
    /// The framework's own sign comes when the listeners close: too early for what serves the requests in flight.
    async fn start(&self, _listeners_closed: ShutdownWatch) {
        let taken = lock(&self.start).take();
        if let Some((start, done)) = taken {
            start(self.stop.clone()).await;
            drop(done);
        }
    }
}
