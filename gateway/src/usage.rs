//! Usage: not furnished yet.
