//! Limiter: not furnished yet.
