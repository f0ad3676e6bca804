//! Admin: not furnished yet.
