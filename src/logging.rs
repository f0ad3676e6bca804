//! One subscriber for the whole process, on standard error. Standard output belongs to answers of commands.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::EnvFilter;

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogShape {
    /// For people; in colour where a terminal reads it.
    Text,
    /// One object a line, for machines.
    Json,
}

/// At `debug` the driver writes the values of every statement, and so hashes of passwords and tokens; at `info` notices that
/// say nothing to anybody.
const QUIET_DRIVER: &str = "tokio_postgres=warn";

/// Starts logging. `RUST_LOG` goes before `filter`; a filter that cannot be read becomes `info`.
pub fn start(shape: LogShape, filter: &str) {
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(filter));
    let filter = quiet(filter.unwrap_or_else(|_| "info".into()));
    let builder = tracing_subscriber::fmt().with_writer(stderr).with_env_filter(filter);
    // A second start, as in tests, keeps the first subscriber.
    let _already_started = match shape {
        LogShape::Text => builder.with_ansi(stderr().is_terminal()).try_init(),
        LogShape::Json => builder.json().try_init(),
    };
}

/// Whatever an operator asks for, the driver says no more than it may.
fn quiet(filter: EnvFilter) -> EnvFilter {
    match QUIET_DRIVER.parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    }
}
