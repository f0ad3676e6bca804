//! Filters: not furnished yet.
