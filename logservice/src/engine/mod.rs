//! A plain valkey-server as a tool: a snapshot and the log after it are applied by the engine that wrote them.
//!
//! The server is a child of this process, listens only on a unix socket of its own, and follows a [`Feed`], the part of the log that it has
//! to apply, as any replica follows its primary. It is not trusted, as the log may hold what an attacker wrote. So it has few rights
//! (`confine.rs`), few commands (`names.rs`), and little time (`bounds.rs`).
//!
//! Read `launch.rs` first: how an engine is started, by the settings of `configuration.rs`. `running_engine.rs` watches and ends it.
//! `feed.rs` is its primary, which judges each command of the log by `commands.rs`, replaces those of slots that come (`slot_stream.rs`), and
//! knows which imports of slots are open (`imports.rs`). `client.rs` asks it questions, `contents.rs` counts what
//! it holds, `reading.rs` reads its keys at an offset for an audit, and `output.rs` and `rdb.rs` say what became of its work.

mod bounds;
mod client;
mod commands;
mod configuration;
mod confine;
mod contents;
mod feed;
mod flags;
mod imports;
mod launch;
mod names;
mod output;
mod rdb;
mod reading;
mod running_engine;
mod slot_stream;

pub use bounds::Bounds;
pub use feed::{Feed, FeedError, Start};
pub use flags::{EngineFlags, Isolation};
pub use imports::OpenImport;
pub use launch::{check_version, program_version, EngineOptions};
pub use rdb::{inspect_rdb, RdbFacts};
pub use reading::{KeyReader, Name};
pub use running_engine::Engine;
pub use slot_stream::SlotStream;

use std::path::PathBuf;

use durability_protocol::EngineVersion;

/// The oldest version without a known vulnerability that the content of a log could exploit.
pub const SAFE_VERSION: EngineVersion = EngineVersion { major: 9, minor: 1, patch: 2 };

/// Why an engine did not do its work.
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
    /// It ended by itself.
    #[error("valkey-server ended ({status}): {output}")]
    Ended {
        /// How.
        status: String,
        /// The last lines that it wrote.
        output: String,
    },
    /// It could not be sent a command, or its reply was unexpected.
    #[error("valkey-server did not answer {command}: {reason}")]
    Answer {
        /// The command.
        command: String,
        /// What went wrong.
        reason: String,
    },
    /// Its feed broke off.
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
        /// The command.
        command: String,
        /// How long it had.
        seconds: u64,
    },
    /// It makes no progress although there is more to apply.
    #[error(
        "valkey-server stands still at offset {applied} for {seconds} s, received {received} of {end} (a command that takes longer? \
         --engine-stall-seconds gives it more)"
    )]
    Stalled {
        /// For how long.
        seconds: u64,
        /// Offset (exclusive) up to which it has applied.
        applied: u64,
        /// Offset (exclusive) up to which it has received.
        received: u64,
        /// Offset (exclusive) up to which there is more.
        end: u64,
    },
    /// The RDB that it wrote is not sound.
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
