//! Feed: not furnished yet.
