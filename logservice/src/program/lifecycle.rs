//! Starts, reloads and stops the service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::cluster_flags::{ClusterConfig, ClusterFlagsError};
use super::config::{Config, KeepError, QuotaError};
use super::replication::{self, ReplicationError};
use crate::access::tokens::{Tokens, TokensError};
use crate::connections::limits::OpenFilesError;
use crate::connections::listen::listen_when_free;
use crate::connections::tls::{Tls, TlsError, TlsPort};
use crate::encryption::{KeyFileError, KeyRing};
use crate::engine::EngineOptions;
use crate::replica::cluster::{check_alone, IdentityError, Replicas};
use crate::replica::copy::CopyDisks;
use crate::replica::copy_files::CopyFiles;
use crate::replica::files::SnapshotFiles;
use crate::replica::groups::Groups;
use crate::replica::store_factory::ReplicatedStores;
use crate::service::{DirectoryError, Service, ServiceOptions};
use crate::snapshots::{LocationError, SnapshotStore};
use crate::store::StoreFactory;
use crate::{archiver, engine, http, resp, snapshotter};

/// How long stopping waits at most for accepted appends and their acknowledgements.
const STOP_AT_MOST: Duration = Duration::from_secs(5);

/// Requests for work that takes an engine and that the snapshotter has not taken yet.
const ENGINE_REQUESTS: usize = 16;

/// Why the service did not start: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The place for snapshots cannot be used.
    #[error(transparent)]
    Snapshots(#[from] LocationError),
    /// The tokens file cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The key file cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// TLS cannot be used as it is configured.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Other machines could reach it without a token.
    #[error("{flag} {address} can be reached from other machines, but there is no --tokens file; give one, listen on 127.0.0.1, or accept the risk with --insecure")]
    Unprotected {
        /// Which flag.
        flag: &'static str,
        /// Its address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {flag} {address}: {source}; stop what uses it or choose another address")]
    Listen {
        /// Which flag.
        flag: &'static str,
        /// Its address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A log could not be written at all.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// `--keep` cannot be used as it is given.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// The flags of three services do not fit together.
    #[error(transparent)]
    ClusterFlags(#[from] ClusterFlagsError),
    /// The directory is of a service of a cluster.
    #[error(transparent)]
    NotAlone(#[from] IdentityError),
    /// The service cannot be one of a cluster.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// The engine is too old.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// The process may not open as many files as the configured connections need.
    #[error(transparent)]
    OpenFiles(#[from] OpenFilesError),
    /// The operating system refused something else.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// A running service.
pub struct RunningService {
    /// Address of the RESP port.
    pub listen: SocketAddr,
    /// Address of the HTTP port.
    pub http: SocketAddr,
    service: Arc<Service>,
    /// The copies of logs that several services keep, if they do.
    replicas: Option<Arc<Replicas>>,
    tls: Option<Arc<Tls>>,
    tokens: Option<PathBuf>,
    keys: Arc<KeyRing>,
    shutdown: watch::Sender<bool>,
    resp_task: JoinHandle<()>,
    http_task: JoinHandle<()>,
    snapshot_task: JoinHandle<()>,
}

/// Starts the service. Ports are open when this returns.
pub async fn start(config: &Config) -> Result<RunningService, StartError> {
    for (flag, address) in [("--listen", config.listen), ("--http", config.http)] {
        if !address.ip().is_loopback() && config.tokens.is_none() && !config.insecure {
            return Err(StartError::Unprotected { flag, address });
        }
    }
    let cluster = config.cluster.check(config.listen)?;
    if cluster.is_none() {
        check_alone(&config.dir)?;
    }
    let archive = config.archive()?;
    let limits = Arc::new(config.limits());
    if let Some(warning) = limits.raise_open_files()? {
        tracing::warn!("{warning}");
    }
    if let Some(warning) = config.quota_warning() {
        tracing::warn!("{warning}");
    }
    let tokens = config.tokens.as_deref().map(Tokens::read).transpose()?;
    let keys = KeyRing::read(config.encrypt_key_file.as_deref())?;
    let tls = Tls::from_flags(config.tls())?;
    let resp_listener = listen("--listen", config.listen).await?;
    let http_listener = listen("--http", config.http).await?;
    let (listen, http) = (resp_listener.local_addr()?, http_listener.local_addr()?);
    let (engine_requests, requests) = mpsc::channel(ENGINE_REQUESTS);
    let snapshots = SnapshotStore::open(config.snapshots.as_deref(), &config.dir)?;
    let snapshots = Arc::new(snapshots.encrypted_with(keys.clone(), config.encrypt_scratch_dir.as_deref()));
    tell_encryption(&keys);
    let (stores, replicas, files) = match cluster {
        None => (config.store(&keys)?.factory()?, None, None),
        Some(cluster) => {
            let kept = (&keys, &snapshots);
            let (stores, replicas, files) = replicated(cluster, config, kept, tls.clone(), (listen, http)).await?;
            (stores, Some(replicas), Some(files))
        }
    };
    let options = ServiceOptions {
        snapshots,
        archive,
        engine_requests,
        files,
        groups: replicas.clone().map(|replicas| replicas as Arc<dyn Groups>),
        directory: config.dir.clone(),
        stores,
        max_shards: config.max_shards,
        snapshot_log_bytes: config.snapshotter().log_bytes,
        debug_command: config.enable_debug_command,
        http_port: http.port(),
    };
    let opened = tokio::task::spawn_blocking(move || Service::open(options, tokens)).await;
    let service = opened.map_err(std::io::Error::other)??;
    service.keep_histories();
    let (shutdown, stopping) = watch::channel(false);
    let snapshotter = config.snapshotter();
    if snapshotter.engine.min_version.is_some() {
        check_engine(&snapshotter.engine).await?;
    } else if config.snapshot_log_mb > 0 {
        // In the background, as it only warns: leases have to be renewed meanwhile.
        let options = snapshotter.engine.clone();
        tokio::spawn(async move { check_engine(&options).await });
    }
    let snapshot_task = tokio::spawn(snapshotter::run(service.clone(), snapshotter, requests, stopping.clone()));
    if archive.is_some() {
        tokio::spawn(archiver::run(service.clone(), usize::from(config.keep_snapshots), stopping.clone()));
    }
    let resp_port = tls.clone().map(|tls| TlsPort::new(tls, resp::NEEDS_TLS)).transpose()?;
    let http_port = tls.clone().map(|tls| TlsPort::new(tls, http::NEEDS_TLS)).transpose()?;
    let resp_task =
        tokio::spawn(resp::serve(service.clone(), resp_listener, limits.clone(), resp_port, stopping.clone()));
    let http_task = tokio::spawn(http::serve(service.clone(), http_listener, limits, http_port, stopping));
    let with_tls = if tls.is_some() { ", both with TLS" } else { "" };
    tracing::info!(
        "logservice started: RESP on {listen}, HTTP on {http}{with_tls}, directory {}",
        config.dir.display()
    );
    let tokens = config.tokens.clone();
    Ok(RunningService {
        listen,
        http,
        service,
        replicas,
        tls,
        tokens,
        keys,
        shutdown,
        resp_task,
        http_task,
        snapshot_task,
    })
}

/// Stores over the logs that this service keeps with others.
async fn replicated(
    cluster: ClusterConfig,
    config: &Config,
    (keys, snapshots): (&Arc<KeyRing>, &Arc<SnapshotStore>),
    tls: Option<Arc<Tls>>,
    addresses: (SocketAddr, SocketAddr),
) -> Result<(Arc<dyn StoreFactory>, Arc<Replicas>, Arc<SnapshotFiles>), StartError> {
    let copies = CopyFiles::new(&config.dir.join("replicas"), config.store(keys)?.files()?);
    let alone = config.store(keys)?.factory_of_used()?;
    let kept = (Arc::new(copies) as Arc<dyn CopyDisks>, alone.clone(), snapshots);
    let (replicas, files) = replication::start(cluster, config, kept, tls, addresses).await?;
    let stores = ReplicatedStores::new(replicas.clone()).and_alone(alone);
    Ok((Arc::new(stores), replicas, files))
}

/// Warns early if no snapshots can be made, before the log has grown.
///
/// # Errors
/// The engine is older than `--engine-min-version` allows.
async fn check_engine(options: &EngineOptions) -> Result<(), engine::EngineError> {
    match engine::program_version(options).await {
        Ok(found) => {
            engine::check_version(options, found)?;
            if options.min_version.is_none() && found < engine::SAFE_VERSION {
                tracing::warn!(
                    "valkey-server here is of version {found}, and {} is the first that is known to be safe from what somebody may \
                     write to a log: install it, or say with --engine-min-version which version is",
                    engine::SAFE_VERSION
                );
            }
        }
        Err(error) => tracing::warn!(
            "no snapshots can be made, so the log will grow without bound: {error}; or turn them off with --snapshot-log-mb 0"
        ),
    }
    Ok(())
}

/// Logs which key encrypts what is written from now on, if there are keys.
fn tell_encryption(keys: &KeyRing) {
    match keys.id_for_new() {
        Some(id) => tracing::info!("log and snapshots are encrypted with key '{id}' from now on"),
        None if keys.has_keys() => {
            tracing::warn!("log and snapshots are not encrypted from now on: the key file begins with 'plain'");
        }
        None => {}
    }
}

async fn listen(flag: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listening = listen_when_free(format_args!("{flag} {address}"), address).await;
    listening.map_err(|source| StartError::Listen { flag, address, source })
}

impl RunningService {
    /// The service that it runs.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Reads certificates, tokens and keys again, for later connections, logins and writes. Closes connections whose token is gone or has
    /// another role. A file that cannot be used is logged, and changes nothing.
    pub fn reload(&self) {
        match self.tls.as_ref().map(|tls| tls.reload()) {
            Some(Ok(())) => tracing::info!("certificates reloaded; connections that are open keep theirs"),
            Some(Err(error)) => tracing::error!("the certificates stay as they were: {error}"),
            None => {}
        }
        let tokens = self.tokens.as_deref().zip(self.service.tokens());
        match tokens.map(|(path, tokens)| tokens.read_again(path)) {
            Some(Ok(tokens)) => {
                self.service.set_tokens(tokens);
                tracing::info!(
                    "tokens reloaded; connections whose token is gone, or has another role, are being closed"
                );
            }
            Some(Err(error)) => tracing::error!("the tokens stay as they were: {error}"),
            None => {}
        }
        if self.keys.has_keys() {
            let shards = self.service.open_shards();
            let mut uses: Vec<_> = shards.iter().flat_map(|shard| shard.key_uses()).collect();
            uses.extend(self.replicas.iter().flat_map(|replicas| replicas.key_uses()));
            match self.keys.reload(&uses) {
                Ok(()) => tell_encryption(&self.keys),
                Err(error) => tracing::error!("the keys stay as they were: {error}"),
            }
        }
    }

    /// Has other services decide over the logs, if there are others. Then stops accepting connections, and waits a few seconds at most until accepted appends are durable and acknowledged.
    pub async fn stop(self) {
        self.service.hand_over().await;
        self.shutdown.send_replace(true);
        let (mut resp_task, mut http_task) = (self.resp_task, self.http_task);
        let stopped = tokio::time::timeout(STOP_AT_MOST, async {
            let _ = self.snapshot_task.await;
            let _ = (&mut resp_task).await;
            let _ = (&mut http_task).await;
            self.service.drain().await;
        });
        if stopped.await.is_err() {
            tracing::warn!("not everything was finished within {} s", STOP_AT_MOST.as_secs());
        }
        resp_task.abort();
        http_task.abort();
        if let Some(replicas) = self.replicas {
            let closed = tokio::task::spawn_blocking(move || replicas.stop());
            if tokio::time::timeout(STOP_AT_MOST, closed).await.is_err() {
                tracing::warn!("not all copies were closed within {} s", STOP_AT_MOST.as_secs());
            }
        }
    }
}
