//! Decide: not furnished yet.
