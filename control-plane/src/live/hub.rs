//! One task that knows every topic and every watcher: takes moments in, hands deltas out, at most ten a second for each
//! topic. Holds no lock and waits for nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Outgoing;
use super::channel::Channel;
use super::metrics::LiveMetrics;
use super::moment::Moment;
use super::recent::Recent;
use super::topic::{Kind, Topic, Watch};

/// How often deltas are sent: a browser draws no faster.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// What watchers want.
pub(super) enum Command {
    Watch { watcher: u64, watch: Watch, outbox: mpsc::Sender<Outgoing> },
    Leave { watcher: u64, watch: Watch },
}

pub(super) struct Hub {
    channels: HashMap<Watch, Channel>,
    recent: Recent,
    metrics: LiveMetrics,
}

impl Hub {
    pub(super) fn new(metrics: LiveMetrics) -> Hub {
        Hub { channels: HashMap::new(), recent: Recent::default(), metrics }
    }

    pub(super) async fn run(
        mut self,
        mut orders: mpsc::Receiver<Command>,
        mut moments: mpsc::Receiver<Arc<Moment>>,
        shutdown: CancellationToken,
    ) {
        let mut flush = tokio::time::interval(FLUSH_INTERVAL);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(order) = orders.recv() => self.obey(order),
                Some(moment) = moments.recv() => self.take(moment),
                _ = flush.tick() => self.flush(),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Watch { watcher, watch, outbox } => {
                let channel = self.channels.entry(watch).or_insert_with(|| Channel::new(watch));
                channel.join(watcher, outbox, &mut self.recent, &self.metrics);
            }
            Command::Leave { watcher, watch } => {
                if let Some(channel) = self.channels.get_mut(&watch) {
                    channel.leave(watcher);
                }
            }
        }
    }

    fn take(&mut self, moment: Arc<Moment>) {
        self.recent.add(Arc::clone(&moment), Instant::now());
        if self.channels.is_empty() {
            return;
        }
        for row in &moment.rows {
            for scope in row.place.scopes() {
                for shows_keys in [false, true] {
                    let watch = Watch { topic: Topic { scope, kind: Kind::Requests }, shows_keys };
                    if let Some(channel) = self.channels.get_mut(&watch) {
                        channel.add_row(row);
                    }
                }
            }
        }
        for count in &moment.counts {
            for scope in count.place.scopes() {
                for kind in [Kind::Counters, Kind::Requests] {
                    for shows_keys in [false, true] {
                        let watch = Watch { topic: Topic { scope, kind }, shows_keys };
                        if let Some(channel) = self.channels.get_mut(&watch) {
                            channel.add_sums(moment.at_ms, &count.sums);
                        }
                    }
                }
            }
        }
    }

    fn flush(&mut self) {
        for channel in self.channels.values_mut() {
            channel.flush(&self.metrics);
            channel.heal(&mut self.recent);
        }
        self.channels.retain(|_, channel| !channel.is_deserted());
        self.metrics.topics.set(i64::try_from(self.channels.len()).unwrap_or(i64::MAX));
    }
}
