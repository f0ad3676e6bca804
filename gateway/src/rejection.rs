//! Rejection: not furnished yet.
