//! One supervised part of the stack. A part that ends unasked is started again, ever more slowly; it is never given up.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use servers::{PrivatePostgres, PrivateRedis, ServerFault, Signal, die_with_parent, send};

/// First and longest pause before a part that ended is started again.
const RESTART_DELAY_MIN: Duration = Duration::from_millis(500);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(30);
/// A part that ran this long starts again with the first pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// A role drains its requests for at most this long when asked to stop.
const STOP_WAIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// What a part runs as.
pub enum Runs {
    Postgres(PrivatePostgres),
    Redis(PrivateRedis),
    Role { make: Box<dyn Fn() -> Command>, child: Child },
}

pub struct Part {
    pub name: &'static str,
    runs: Runs,
    started: Instant,
    delay: Duration,
    restart_at: Option<Instant>,
}

impl Part {
    pub fn new(name: &'static str, runs: Runs) -> Part {
        Part { name, runs, started: Instant::now(), delay: RESTART_DELAY_MIN, restart_at: None }
    }

    /// Starts one of our own roles. The command is kept, to start it again.
    pub fn role(name: &'static str, make: impl Fn() -> Command + 'static) -> Result<Part, ServerFault> {
        let child = spawn(name, make())?;
        Ok(Part::new(name, Runs::Role { make: Box::new(make), child }))
    }

    /// Looks at the part once: notes its end, and starts it again when its pause is over.
    pub fn watch(&mut self) {
        match self.restart_at {
            Some(at) if Instant::now() >= at => self.restart(),
            Some(_) => {}
            None => {
                if let Ok(Some(status)) = self.runs.child().try_wait() {
                    self.note_end(&status.to_string());
                }
            }
        }
    }

    pub fn stop(&mut self) {
        match &mut self.runs {
            Runs::Postgres(postgres) => postgres.stop(),
            Runs::Redis(redis) => redis.stop(),
            Runs::Role { child, .. } => stop_role(child),
        }
    }

    fn note_end(&mut self, status: &str) {
        if self.started.elapsed() > HEALTHY_AFTER {
            self.delay = RESTART_DELAY_MIN;
        }
        tracing::error!(
            part = self.name,
            status,
            delay_ms = self.delay.as_millis(),
            "a part ended; it is started again"
        );
        self.restart_at = Some(Instant::now() + self.delay);
        self.delay = (self.delay * 2).min(RESTART_DELAY_MAX);
    }

    fn restart(&mut self) {
        let result = match &mut self.runs {
            Runs::Postgres(postgres) => postgres.restart(),
            Runs::Redis(redis) => redis.restart(),
            Runs::Role { make, child } => spawn(self.name, make()).map(|new| *child = new),
        };
        self.started = Instant::now();
        self.restart_at = None;
        if let Err(fault) = result {
            self.note_end(&fault.to_string());
        }
    }
}

impl Runs {
    fn child(&mut self) -> &mut Child {
        match self {
            Runs::Postgres(postgres) => postgres.child(),
            Runs::Redis(redis) => redis.child(),
            Runs::Role { child, .. } => child,
        }
    }
}

fn spawn(name: &'static str, mut command: Command) -> Result<Child, ServerFault> {
    die_with_parent(&mut command, Signal::TERM);
    command.spawn().map_err(|error| ServerFault::Start { program: name, reason: error.to_string() })
}

fn stop_role(child: &mut Child) {
    send(child, Signal::TERM);
    let deadline = Instant::now() + STOP_WAIT;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(POLL),
            _ => return,
        }
    }
    send(child, Signal::KILL);
    let _ = child.wait();
}
