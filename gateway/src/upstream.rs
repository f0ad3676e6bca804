//! Upstream: not furnished yet.
