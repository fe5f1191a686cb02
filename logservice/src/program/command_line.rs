//! The command line: serving, or one of the [`tools`](crate::tools).

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::cluster_flags::ClusterFlags;
use super::config::Config;
use crate::engine::EngineFlags;
use crate::tools::backups::BackupsFlags;
use crate::tools::restore::RestoreFlags;

/// The log server of durable Valkey.
#[derive(Debug, Clone, Parser)]
#[command(name = "logservice", version, args_override_self = true)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct CommandLine {
    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve
    #[command(flatten)]
    pub config: Option<Config>,
    /// How engines are started. Not within `config`, as that is optional, and then may hold no others
    #[command(flatten)]
    pub engine: EngineFlags,
    /// How it is one of a cluster. Not within `config` either
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

impl CommandLine {
    /// How to serve; `None` if no directory is given.
    pub fn serving(self) -> Option<Config> {
        self.config.map(|config| Config { engine: self.engine, cluster: self.cluster, ..config })
    }
}

/// What can be done with a directory besides serving it. Nothing in the directory changes.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Verify every record and snapshot in a directory, and report the result
    Check {
        /// The directory
        dir: PathBuf,
        /// Only this shard
        #[arg(long)]
        shard: Option<String>,
        /// Where snapshots are kept, as given to the service; in the directory by default
        #[arg(long, value_name = "URL")]
        snapshots: Option<String>,
        /// File of the keys with which it is encrypted, as given to the service. Without it nothing is decrypted, which is not
        /// needed to find damage
        #[arg(long, value_name = "FILE")]
        encrypt_key_file: Option<PathBuf>,
    },
    /// Show a shard's log as commands: offset, epoch, time in milliseconds since 1970, arguments
    Dump {
        /// The directory
        dir: PathBuf,
        /// The shard
        #[arg(long)]
        shard: String,
        /// Commands that begin at this offset or later
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Commands that begin before this offset
        #[arg(long, default_value_t = u64::MAX)]
        to: u64,
        /// File of the keys with which it is encrypted, as given to the service
        #[arg(long, value_name = "FILE")]
        encrypt_key_file: Option<PathBuf>,
    },
    /// Make an RDB of a shard as it was at a time or an offset
    Restore(RestoreFlags),
    /// List what a service has kept with --keep, and its named backups; or copy or verify one of these
    Backups(BackupsFlags),
}
