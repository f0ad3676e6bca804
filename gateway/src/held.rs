//! What goes with a connection and is dropped with its socket, wherever the framework keeps that. It looks at no byte.

use std::fmt;
use std::sync::Arc;

use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::{Tracer, Tracing};

/// The framework's tracer is the one thing of ours that a stream owns to its end, under TLS and HTTP/2 too.
struct Held<T>(Arc<T>);

/// From now on `value` lasts as long as the stream; one that was held before is dropped.
pub(crate) fn hold<T: Send + Sync + 'static>(stream: &mut Stream, value: T) {
    stream.tracer = Some(Tracer(Box::new(Held(Arc::new(value)))));
}

impl<T> fmt::Debug for Held<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl<T: Send + Sync + 'static> Tracing for Held<T> {
    fn on_connected(&self) {}

    fn on_disconnected(&self) {}

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(Held(Arc::clone(&self.0)))
    }
}
