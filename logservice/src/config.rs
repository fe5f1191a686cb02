//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::engine::EngineFlags;
use crate::limits::{Limits, Patience};
use crate::restore::Moment;
use crate::server::StartError;
use crate::snapshotter::SnapshotterOptions;
use crate::store::file_store::MIN_SEGMENT_BYTES;

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
}

impl CommandLine {
    /// How to serve, if it is to.
    pub fn serving(self) -> Option<Config> {
        self.config.map(|config| Config { engine: self.engine, ..config })
    }
}

/// What can be done with a directory besides serving it. Nothing in it is changed.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Verify every record and snapshot in a directory, and tell what it found
    Check {
        /// The directory
        dir: PathBuf,
        /// Only this shard
        #[arg(long)]
        shard: Option<String>,
        /// Where snapshots are kept, as the service is told; in the directory unless told
        #[arg(long, value_name = "URL")]
        snapshots: Option<String>,
        /// File of the keys with which it is encrypted, as the service is told. Without it nothing is decrypted, which is not
        /// needed to tell damage
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
        /// File of the keys with which it is encrypted, as the service is told
        #[arg(long, value_name = "FILE")]
        encrypt_key_file: Option<PathBuf>,
    },
    /// Make an RDB of a shard as it was at a time or an offset
    Restore(Restore),
}

impl Config {
    /// How snapshots are made.
    pub fn snapshotter(&self) -> SnapshotterOptions {
        SnapshotterOptions {
            engine: self.engine.options(true),
            max_engines: usize::from(self.max_engines),
            keep: usize::from(self.keep_snapshots),
            log_bytes: self.snapshot_log_mb << 20,
        }
    }
}

/// An RDB of a shard as it was.
#[derive(Debug, Clone, Args)]
pub struct Restore {
    /// The directory, which may be served meanwhile
    pub dir: PathBuf,
    /// The shard
    #[arg(long)]
    pub shard: String,
    /// As it was then: an offset, or a time such as 2026-11-21T17:05:00Z or 2026-11-21T17:05:00.250Z
    #[arg(long, value_name = "TIME|OFFSET")]
    pub to: Moment,
    /// The file to write, which must not be there yet
    #[arg(long)]
    pub out: PathBuf,
    /// Where snapshots are kept, as the service is told; in the directory unless told
    #[arg(long, value_name = "URL")]
    pub snapshots: Option<String>,
    /// File of the keys with which it is encrypted, as the service is told. The RDB is not encrypted
    #[arg(long, value_name = "FILE")]
    pub encrypt_key_file: Option<PathBuf>,
    /// How engines are started
    #[command(flatten)]
    pub engine: EngineFlags,
}

/// How to serve.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Directory in which everything is kept; created if it does not exist
    #[arg(long)]
    pub dir: PathBuf,
    /// Address of the RESP port; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:7379")]
    pub listen: SocketAddr,
    /// Address of the HTTP port (snapshots, status); port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:7380")]
    pub http: SocketAddr,
    /// File with the tokens that clients must present: lines of `shard token [role]`, `*` for all shards, `#` comments; roles are discover,
    /// observe, follow, operate and node, which is the default. SIGHUP reads it again
    #[arg(long)]
    pub tokens: Option<PathBuf>,
    /// File with this service's certificate (PEM, with the certificates that lead to its CA). With it, both ports take
    /// TLS connections only. SIGHUP reads the files again
    #[arg(long)]
    pub tls_cert: Option<PathBuf>,
    /// File with the certificate's private key (PEM, without a password)
    #[arg(long)]
    pub tls_key: Option<PathBuf>,
    /// File with the CAs (PEM) of which clients must present a certificate
    #[arg(long)]
    pub tls_client_ca: Option<PathBuf>,
    /// File with the revocation lists (CRLs, PEM) of those CAs, and of those between them and the clients. With it, clients whose
    /// certificate is revoked are refused
    #[arg(long)]
    pub tls_client_crl: Option<PathBuf>,
    /// File of the keys with which log and snapshots are encrypted: lines of `id key`, the key 32 random bytes in base64 or hex digits. The
    /// first is for what is written from now on, all are for reading. SIGHUP reads the file again
    #[arg(long, value_name = "FILE")]
    pub encrypt_key_file: Option<PathBuf>,
    /// Directory in which valkey-servers save snapshots that are encrypted then: one in memory (tmpfs) keeps what is not encrypted off disks.
    /// Beside the snapshots unless told
    #[arg(long, value_name = "DIR", requires = "encrypt_key_file")]
    pub encrypt_scratch_dir: Option<PathBuf>,
    /// Serve addresses other than loopback without tokens: anybody who reaches them can read and write every shard
    #[arg(long)]
    pub insecure: bool,
    /// Length of a log segment in MiB
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(MIN_SEGMENT_BYTES >> 20..=4096))]
    pub segment_mb: u64,
    /// Where snapshots are kept: file:///directory or s3://bucket/prefix (credentials and endpoint from AWS_... variables);
    /// in --dir unless told
    #[arg(long, value_name = "URL")]
    pub snapshots: Option<String>,
    /// A snapshot is made when the log since the last one is longer than so many MiB, and longer than that snapshot; 0 makes
    /// them only on LOG.SNAPSHOT
    #[arg(long, default_value_t = 256)]
    pub snapshot_log_mb: u64,
    /// Snapshots kept of each shard, with the log that they need
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub keep_snapshots: u16,
    /// How engines are started
    #[arg(skip)]
    pub engine: EngineFlags,
    /// Snapshots and audits that are made at a time, of different shards: each takes an engine, which takes as much memory as the data
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub max_engines: u16,
    /// The most MiB of disk that the log of a shard takes; its appends are refused beyond that, until a snapshot lets some of the log
    /// go. At least twice --segment-mb, and more than the largest transaction and two segments; 0: no bound
    #[arg(long, default_value_t = 0, value_name = "MB")]
    pub max_log_mb: u64,
    /// The most shards that may exist
    #[arg(long, default_value_t = 1024)]
    pub max_shards: usize,
    /// The most connections to the RESP port; one more is told so and closed. A tenth, but at least 16 and at most half, is kept
    /// for nodes
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// The most connections to the RESP port that have not logged in (TLS handshakes included), beside --max-connections, and half
    /// of that from one IPv4 address or /64 of IPv6; to the HTTP port a quarter of both. For one more the oldest is closed
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_strangers: u32,
    /// The most requests with a token to the HTTP port at a time, of which a quarter may be questions and the others uploads of
    /// data, one for each shard; one more is told so and closed
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_http_connections: u32,
    /// Memory in MiB for commands of more than 16 KiB that have not arrived as a whole, of all connections together; those for
    /// which there is no room are read later
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(4..=1_048_576))]
    pub max_input_mb: u32,
    /// Log in MiB that may be kept for a replica alone when a newer snapshot stands above it, unless that is larger; a replica for
    /// which there is more is closed, and takes the snapshot. None is kept while --max-log-mb stops the log. 0: without a bound, even then
    #[arg(long, default_value_t = 4096)]
    pub max_pinned_mb: u64,
    /// What is logged on stderr: error, warn, info, debug, or a filter such as logservice=debug
    #[arg(long, default_value = "info")]
    pub log_level: String,
    /// Allow LOG.DEBUG, with which acknowledgements can be held back: for tests
    #[arg(long)]
    pub enable_debug_command: bool,
    /// How long clients are waited for
    #[arg(skip)]
    pub patience: Patience,
}

impl Config {
    /// The most bytes that the log of a shard takes.
    ///
    /// # Errors
    /// There is no room for two segments.
    pub fn max_log_bytes(&self) -> Result<Option<u64>, StartError> {
        let Config { max_log_mb, segment_mb, .. } = *self;
        match max_log_mb {
            0 => Ok(None),
            max_log_mb if max_log_mb < 2 * segment_mb => Err(StartError::Quota { max_log_mb, segment_mb }),
            max_log_mb => Ok(Some(max_log_mb.saturating_mul(1 << 20))),
        }
    }

    /// What to warn of when logs have a bound, and no snapshot is made when one reaches it.
    pub fn quota_warning(&self) -> Option<String> {
        let Config { max_log_mb, snapshot_log_mb, .. } = *self;
        (max_log_mb > 0 && snapshot_log_mb == 0).then(|| {
            format!(
                "with --snapshot-log-mb 0, a log that takes as much as --max-log-mb {max_log_mb} allows refuses appends until somebody asks for \
                 a snapshot (LOG.SNAPSHOT): leave out --snapshot-log-mb 0, or ask regularly"
            )
        })
    }

    /// What clients may do.
    pub fn limits(&self) -> Limits {
        let Config { max_connections, max_strangers, max_http_connections, .. } = *self;
        let Config { max_shards, max_input_mb, max_pinned_mb, patience, .. } = *self;
        Limits {
            max_connections,
            max_strangers,
            max_http_connections,
            max_shards,
            max_input_mb,
            max_pinned_mb,
            patience,
        }
    }
}
