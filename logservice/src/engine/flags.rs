//! The flags of the command line that concern engines.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use durability_protocol::EngineVersion;

use super::bounds::{machine_memory, Bounds};
use super::EngineOptions;
use crate::base::background::Priority;

/// Memory that an engine needs besides its data: code, stacks, and address space that is reserved and not used.
const OVERHEAD_BYTES: u64 = 1 << 30;

/// Whether engines get a network of their own, in which there is nothing but their feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Isolation {
    /// Where the system allows it. Where it does not, one log line says so.
    Auto,
    /// Always. Where the system does not allow it, there are no engines.
    Require,
    /// Never.
    Off,
}

/// How engines are started, and what they may take.
#[derive(Debug, Clone, Args)]
pub struct EngineFlags {
    /// The valkey-server that applies the log, to make and check snapshots or to restore, of the version that the nodes run
    #[arg(long, default_value = "valkey-server", value_name = "PATH")]
    pub valkey_server: PathBuf,
    /// Configuration that it reads first: loadmodule lines for modules that the data needs
    #[arg(long, value_name = "FILE")]
    pub valkey_conf: Option<PathBuf>,
    /// An engine that applies nothing, or does not answer, for so long is ended. To save and to compare it has this time and
    /// what --engine-mb-per-second allows
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub engine_stall_seconds: u64,
    /// How many MiB of data an engine has to process each second. If it takes longer, it is ended when other shards wait
    #[arg(long, value_name = "MB", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub engine_mb_per_second: u64,
    /// The most memory (address space) of an engine in MiB; 0: as much as the machine or this process's control group has
    #[arg(long, value_name = "MB", default_value_t = 0)]
    pub engine_memory_mb: u64,
    /// Whether engines run in a user and network namespace of their own
    #[arg(long, value_enum, default_value_t = Isolation::Auto)]
    pub engine_isolation: Isolation,
    /// A command that engines keep under its own name although the log has no use for it, as a module calls it. May be repeated
    #[arg(long, value_name = "COMMAND")]
    pub engine_keep_command: Vec<String>,
    /// Refuse a valkey-server that is older than this. Without it, one that is older than the oldest known to be safe causes a warning
    #[arg(long, value_name = "VERSION", value_parser = parse_version)]
    pub engine_min_version: Option<EngineVersion>,
}

impl Default for EngineFlags {
    /// The values without any flag.
    fn default() -> Self {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            flags: EngineFlags,
        }
        Line::parse_from(["logservice"]).flags
    }
}

impl EngineFlags {
    /// The options for engines of that priority.
    pub fn options(&self, priority: Priority) -> EngineOptions {
        let memory_bytes = match self.engine_memory_mb {
            0 => machine_memory().map(|bytes| bytes.saturating_add(OVERHEAD_BYTES)),
            mebibytes => Some(mebibytes.saturating_mul(1 << 20)),
        };
        EngineOptions {
            program: self.valkey_server.clone(),
            config: self.valkey_conf.clone(),
            priority,
            bounds: Bounds {
                stall: Duration::from_secs(self.engine_stall_seconds),
                bytes_per_second: self.engine_mb_per_second << 20,
                memory_bytes,
            },
            isolation: self.engine_isolation,
            kept_commands: self.engine_keep_command.clone(),
            min_version: self.engine_min_version,
        }
    }
}

fn parse_version(text: &str) -> Result<EngineVersion, String> {
    text.parse().map_err(|_| "give a version as 9.1.2".to_owned())
}
