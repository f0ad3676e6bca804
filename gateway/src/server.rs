//! Server: not furnished yet.
