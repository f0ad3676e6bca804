//! Settings: not furnished yet.
