//! Publishing: a product's rows become one immutable release, compiled with the very functions that the gateway uses.
//! The only room beside the feed's builder that knows wire types. Writes nothing; answers with every fault at once.

pub mod book;
pub mod builder;
pub mod compare;
mod pages;
pub mod records;
pub mod release;
pub mod summary;

#[cfg(test)]
mod tests;
