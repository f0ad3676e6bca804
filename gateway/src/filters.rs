//! The steps of a decision, one file each: plain functions that return what they proved, so that a later step cannot run
//! before an earlier one. No filter imports another one's logic, does I/O, or reads a clock.

pub mod edge;

pub mod client_address;

pub mod route;

pub mod cors;

pub mod body_limit;

pub mod credential;

pub mod authenticate;

pub mod entitlement;

pub mod limits;

pub mod identity;
pub mod limit_headers;
