//! Settings: reads one strict TOML file into typed values and reports every fault at once, each with its file, line, key,
//! reason and mend. It refuses to know what any setting means: the planes name their keys, defaults and ranges.

mod document;
mod fault;
mod nearest;
mod reader;
mod secret;
mod section;
mod unknown;

#[cfg(test)]
mod tests;

pub use fault::{Fault, SettingsErrors};
pub use reader::Reader;
pub use secret::Secret;
pub use section::Section;
