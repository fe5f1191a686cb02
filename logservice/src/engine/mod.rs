//! A plain valkey-server as a tool: what stands in a snapshot and in the log after it is applied by the engine that wrote it.
//!
//! The server is a child of this process, listens on nothing but a unix socket of its own, and follows a [`Feed`], the part of
//! the log that it is to apply, as any replica follows its primary.

pub mod background;
mod client;
mod feed;
mod process;
mod rdb;
mod reading;

pub use feed::{Feed, FeedError, Start};
pub use process::{program_version, Engine, EngineOptions};
pub use rdb::{inspect_rdb, RdbFacts};
pub use reading::{KeyReader, Name};

use std::path::PathBuf;

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
    /// It stands still although there is more to apply.
    #[error("valkey-server stands still at offset {applied}, received {received} of {end}")]
    Stalled {
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
