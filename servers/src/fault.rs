//! What can go wrong with a private server, worded for the person who ran the command.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ServerFault {
    #[error("{program} was not found; install it with: {install}")]
    NotInstalled { program: &'static str, install: &'static str },
    #[error("cannot use {path}: {reason}")]
    Directory { path: PathBuf, reason: String },
    #[error(
        "{path} was made by Postgres {found}, but Postgres {installed} is installed; move the directory away or install the other version"
    )]
    OtherMajorVersion { path: PathBuf, found: String, installed: String },
    #[error("cannot start {program}: {reason}")]
    Start { program: &'static str, reason: String },
    #[error("{program} was not ready after {waited_s} s; its log is {log}")]
    NotReady { program: &'static str, waited_s: u64, log: PathBuf },
    #[error("{program} ended at once ({status}); its log is {log}")]
    Ended { program: &'static str, status: String, log: PathBuf },
}
