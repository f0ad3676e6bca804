//! Live: not furnished yet.
