//! What is owed, and when: usage and terms are rated into lines, lines become invoices, invoices are paid or fall due. The sums are
//! pure (`money`, `rating`, `statement`); what moves rows stands beside them. Refuses to know JSON requests and SQL.

pub mod money;
pub mod rating;
pub mod statement;

pub mod account;
pub mod alerts;
pub mod attempts;
pub mod clock;
pub mod document;
pub mod dunning;
pub mod issue;
pub mod job;
pub mod metrics;
pub mod verify;

#[cfg(test)]
mod year_tests;
