//! What the `apihub` program is made of beside its two planes: the stack on one machine, and asking a process for its
//! health. Decides nothing about a request and knows no table.

pub mod allocator;
pub mod billing;
pub mod health;
pub mod logging;
pub mod rest;
pub mod role_files;
pub mod up;
