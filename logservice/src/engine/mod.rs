//! A plain valkey-server as a tool: what stands in a snapshot and in the log after it is applied by the engine that wrote it.
//!
//! The server is a child of this process, listens on nothing but a unix socket of its own, and follows a [`Feed`], the part of
//! the log that it is to apply, as any replica follows its primary. It is not trusted: what it applies may be written by somebody
//! who means harm. So it has few rights (`confine.rs`), knows few commands (`names.rs`), and little time (`bounds.rs`).

pub mod background;
mod bounds;
mod client;
mod commands;
mod configuration;
mod confine;
mod feed;
mod flags;
mod names;
mod output;
mod process;
mod rdb;
mod reading;

pub use bounds::Bounds;
pub use feed::{Feed, FeedError, Start};
pub use flags::{EngineFlags, Isolation};
pub use process::{check_version, program_version, Engine, EngineOptions};
pub use rdb::{inspect_rdb, RdbFacts};
pub use reading::{KeyReader, Name};

use std::path::PathBuf;

use durability_protocol::EngineVersion;

/// The newest version of which it is known that its predecessors have a hole that what is in a log may reach.
pub const SAFE_VERSION: EngineVersion = EngineVersion { major: 9, minor: 1, patch: 2 };

/// Why the engine did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It could not be started.
    #[error("cannot start {}: {source}; install valkey-server on this machine, or name it with --valkey-server", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It ended before it was told to.
    #[error("valkey-server ended ({status}): {output}")]
    Ended {
        /// How.
        status: String,
        /// The last lines that it wrote.
        output: String,
    },
    /// It could not be asked, or answered something unexpected.
    #[error("valkey-server did not answer {command}: {reason}")]
    Answer {
        /// What it was asked.
        command: String,
        /// What went wrong.
        reason: String,
    },
    /// What it was sent broke off.
    #[error("valkey-server could not be sent the log: {0}")]
    Feed(#[from] FeedError),
    /// It is too old.
    #[error(
        "valkey-server here is of version {found}, and --engine-min-version is {least}: install {least} or a later one"
    )]
    OldVersion {
        /// Its version.
        found: EngineVersion,
        /// The least that may be used.
        least: EngineVersion,
    },
    /// It does not answer.
    #[error("valkey-server did not answer {command} within {seconds} s")]
    Silent {
        /// What it was asked.
        command: String,
        /// How long it had.
        seconds: u64,
    },
    /// It stands still although there is more to apply.
    #[error(
        "valkey-server stands still at offset {applied} for {seconds} s, received {received} of {end} (a command that takes longer? \
         --engine-stall-seconds gives it more)"
    )]
    Stalled {
        /// For how long.
        seconds: u64,
        /// Offset (exclusive) up to which it has applied.
        applied: u64,
        /// Up to which it has received.
        received: u64,
        /// Up to which there is more.
        end: u64,
    },
    /// The RDB that it wrote is not what it should be.
    #[error("the RDB is not sound: {0}")]
    Rdb(String),
    /// The operating system refused.
    #[error("{action}: {source}")]
    System {
        /// What was being done, as "cannot ...".
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
}
