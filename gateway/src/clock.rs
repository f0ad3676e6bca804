//! Clock: not furnished yet.
