//! Proxy: not furnished yet.
