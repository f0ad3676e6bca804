//! The domain: what a value must be before anything is done with it. Pure: no database, no JSON request, no wire format, no
//! clock. Every fault names its field, its reason and its mend.

pub mod accounts;
pub mod fault;
#[macro_use]
mod text_enum;
pub mod analytics;
pub mod endpoint;
pub mod host;
pub mod invoice;
pub mod key;
pub mod period;
pub mod plan;
pub mod product;
pub mod subscription;
pub mod text;
pub mod usage;
pub mod verdict;

#[cfg(test)]
mod tests;
