//! Metrics: not furnished yet.
