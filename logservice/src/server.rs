//! Starts and stops the service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::service::{DirectoryError, Service, ServiceOptions};
use crate::store::file_store::FileStoreOptions;
use crate::tokens::{Tokens, TokensError};
use crate::{http, resp};

/// The longest that stopping waits for accepted appends and their acknowledgements.
const STOP_AT_MOST: Duration = Duration::from_secs(5);

/// Why the service did not start. One line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The tokens file cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// Others could reach it and would not need a token.
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
    /// The operating system refused something else.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// A running service.
pub struct Server {
    /// Where the RESP port is.
    pub listen: SocketAddr,
    /// Where the HTTP port is.
    pub http: SocketAddr,
    service: Arc<Service>,
    shutdown: watch::Sender<bool>,
    resp_task: JoinHandle<()>,
    http_task: JoinHandle<()>,
}

/// Starts the service. Ports are open when this returns.
pub async fn start(config: &Config) -> Result<Server, StartError> {
    for (flag, address) in [("--listen", config.listen), ("--http", config.http)] {
        if !address.ip().is_loopback() && config.tokens.is_none() && !config.insecure {
            return Err(StartError::Unprotected { flag, address });
        }
    }
    let tokens = config.tokens.as_deref().map(Tokens::read).transpose()?;
    let resp_listener = listen("--listen", config.listen).await?;
    let http_listener = listen("--http", config.http).await?;
    let (listen, http) = (resp_listener.local_addr()?, http_listener.local_addr()?);
    let options = ServiceOptions {
        directory: config.dir.clone(),
        store: FileStoreOptions { segment_bytes: config.segment_mb << 20 },
        max_shards: config.max_shards,
        debug_command: config.enable_debug_command,
        http_port: http.port(),
    };
    let opened = tokio::task::spawn_blocking(move || Service::open(options, tokens)).await;
    let service = opened.map_err(std::io::Error::other)??;
    let (shutdown, stopping) = watch::channel(false);
    let resp_task = tokio::spawn(resp::serve(service.clone(), resp_listener, stopping.clone()));
    let http_task = tokio::spawn(http::serve(service.clone(), http_listener, stopping));
    tracing::info!("logservice started: RESP on {listen}, HTTP on {http}, directory {}", config.dir.display());
    Ok(Server { listen, http, service, shutdown, resp_task, http_task })
}

async fn listen(flag: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { flag, address, source })
}

impl Server {
    /// Its shards.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Stops accepting, makes accepted appends durable and acknowledges them; waits a few seconds at most.
    pub async fn stop(self) {
        self.shutdown.send_replace(true);
        let (mut resp_task, mut http_task) = (self.resp_task, self.http_task);
        let stopped = tokio::time::timeout(STOP_AT_MOST, async {
            let _ = (&mut resp_task).await;
            let _ = (&mut http_task).await;
            self.service.drain().await;
        });
        if stopped.await.is_err() {
            tracing::warn!("not everything was finished within {} s", STOP_AT_MOST.as_secs());
        }
        resp_task.abort();
        http_task.abort();
    }
}
