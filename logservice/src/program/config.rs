//! How to serve: the flags of the command line, and what follows from them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::cluster_flags::ClusterFlags;
use crate::archive::ArchiveOptions;
use crate::base::background::Priority;
use crate::connections::limits::{Limits, Patience};
use crate::connections::tls::TlsFlags;
use crate::encryption::KeyRing;
use crate::engine::EngineFlags;
use crate::snapshotter::SnapshotterOptions;
use crate::store::{StoreOptions, MIN_SEGMENT_MB};

/// A log could not be written at all.
#[derive(Debug, thiserror::Error)]
#[error("--max-log-mb {max_log_mb} is less than twice --segment-mb {segment_mb}: a log goes on in a new segment while it keeps the last one; give a larger one, or smaller segments")]
pub struct QuotaError {
    max_log_mb: u64,
    segment_mb: u64,
}

/// `--keep` cannot be used as it is given.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// There is no place for it.
    #[error("--keep needs a place that outlives --dir: give --snapshots s3://bucket/prefix, or a file:///directory on another disk")]
    NoPlace,
    /// Each of several services would have its own.
    #[error("--keep with --peers needs a place that all three services reach: give each the same --snapshots s3://bucket/prefix")]
    OwnPlace,
    /// Shorter than it takes for log to get there.
    #[error("--keep {} is too short: log gets there within a minute, and a snapshot takes its time; give at least {}", humantime::format_duration(*.keep), humantime::format_duration(LEAST_KEEP))]
    Short {
        /// What was given.
        keep: Duration,
    },
}

/// The shortest time that `--keep` takes.
const LEAST_KEEP: Duration = Duration::from_secs(600);

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
    /// File with CAs (PEM): clients must present a certificate of one of them
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
    /// Beside the snapshots by default
    #[arg(long, value_name = "DIR", requires = "encrypt_key_file")]
    pub encrypt_scratch_dir: Option<PathBuf>,
    /// Serve addresses other than loopback without tokens: anybody who reaches them can read and write every shard
    #[arg(long)]
    pub insecure: bool,
    /// Length of a log segment in MiB
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(MIN_SEGMENT_MB..=4096))]
    pub segment_mb: u64,
    /// Where snapshots are kept: file:///directory or s3://bucket/prefix (credentials and endpoint from AWS_... variables);
    /// in --dir by default. With --peers, a directory is this service's own, and an object store is that of all three
    #[arg(long, value_name = "URL")]
    pub snapshots: Option<String>,
    /// A snapshot is made when the log since the last one is longer than so many MiB, and longer than that snapshot; with 0,
    /// snapshots are made only on LOG.SNAPSHOT
    #[arg(long, default_value_t = 256)]
    pub snapshot_log_mb: u64,
    /// Snapshots kept of each shard, with the log that they need
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub keep_snapshots: u16,
    /// How long snapshots and the log between them are kept in the place for snapshots (--snapshots), as 35d or 12h: a shard can be
    /// restored to any moment of that time, also when --dir is lost. Without it nothing is kept for that
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub keep: Option<Duration>,
    /// The most MiB of a shard's log that are kept on disk only because they are not in the place for snapshots yet, with --keep; beyond
    /// that the oldest is given up, and what was written then cannot be restored
    #[arg(long, default_value_t = 4096, value_name = "MB")]
    pub max_unarchived_mb: u64,
    /// How engines are started
    #[arg(skip)]
    pub engine: EngineFlags,
    /// How the service is one of a cluster
    #[arg(skip)]
    pub cluster: ClusterFlags,
    /// Snapshots and audits that run at a time, of different shards: each takes an engine, which takes as much memory as the data
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub max_engines: u16,
    /// The most MiB of disk that the log of a shard takes; its appends are refused beyond that, until a snapshot lets some of the log
    /// go. At least twice --segment-mb, and more than the largest transaction and two segments; 0: no bound
    #[arg(long, default_value_t = 0, value_name = "MB")]
    pub max_log_mb: u64,
    /// The most shards that may exist
    #[arg(long, default_value_t = 1024)]
    pub max_shards: usize,
    /// The most connections to the RESP port; one more gets an error and is closed. A tenth, but at least 16 and at most half, is kept
    /// for nodes
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// The most connections to the RESP port that have not logged in (TLS handshakes included), beside --max-connections, and half
    /// of that from one IPv4 address or /64 of IPv6; to the HTTP port a quarter of both. One more closes the oldest
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_strangers: u32,
    /// The most requests with a token to the HTTP port at a time: a quarter may be queries, the others uploads of data, one for each
    /// shard; one more gets an error and is closed
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
    /// The most bytes that the log of a shard may take; `None` without a bound.
    ///
    /// # Errors
    /// They do not suffice for two segments.
    pub fn max_log_bytes(&self) -> Result<Option<u64>, QuotaError> {
        let Config { max_log_mb, segment_mb, .. } = *self;
        match max_log_mb {
            0 => Ok(None),
            max_log_mb if max_log_mb < 2 * segment_mb => Err(QuotaError { max_log_mb, segment_mb }),
            max_log_mb => Ok(Some(max_log_mb.saturating_mul(1 << 20))),
        }
    }

    /// How shards are stored, encrypted with `keys`.
    ///
    /// # Errors
    /// As [`Config::max_log_bytes`].
    pub fn store(&self, keys: &Arc<KeyRing>) -> Result<StoreOptions, QuotaError> {
        let max_log_bytes = self.max_log_bytes()?;
        Ok(StoreOptions { directory: self.dir.clone(), segment_mb: self.segment_mb, max_log_bytes, keys: keys.clone() })
    }

    /// A warning if logs have a bound and no snapshot is made when one reaches it.
    pub fn quota_warning(&self) -> Option<String> {
        let Config { max_log_mb, snapshot_log_mb, .. } = *self;
        (max_log_mb > 0 && snapshot_log_mb == 0).then(|| {
            format!(
                "with --snapshot-log-mb 0, a log that takes as much as --max-log-mb {max_log_mb} allows refuses appends until somebody asks for \
                 a snapshot (LOG.SNAPSHOT): leave out --snapshot-log-mb 0, or ask regularly"
            )
        })
    }

    /// How logs are archived; none without `--keep`.
    ///
    /// # Errors
    /// The flags do not fit together.
    pub fn archive(&self) -> Result<Option<ArchiveOptions>, KeepError> {
        let Some(keep) = self.keep else { return Ok(None) };
        let url = self.snapshots.as_deref().ok_or(KeepError::NoPlace)?;
        if !self.cluster.peers.is_empty() && url.starts_with("file:") {
            return Err(KeepError::OwnPlace);
        }
        if keep < LEAST_KEEP {
            return Err(KeepError::Short { keep });
        }
        Ok(Some(ArchiveOptions { keep, max_unarchived_bytes: self.max_unarchived_mb.saturating_mul(1 << 20) }))
    }

    /// The bounds for clients.
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

    /// The files that TLS takes.
    pub fn tls(&self) -> TlsFlags {
        TlsFlags {
            certificate: self.tls_cert.clone(),
            key: self.tls_key.clone(),
            client_ca: self.tls_client_ca.clone(),
            client_crl: self.tls_client_crl.clone(),
        }
    }

    /// How snapshots are made.
    pub fn snapshotter(&self) -> SnapshotterOptions {
        SnapshotterOptions {
            engine: self.engine.options(Priority::Idle),
            max_engines: usize::from(self.max_engines),
            keep: usize::from(self.keep_snapshots),
            log_bytes: self.snapshot_log_mb << 20,
        }
    }
}
