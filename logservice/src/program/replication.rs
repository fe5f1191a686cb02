//! Starts what a service needs that is one of a cluster.

use std::net::SocketAddr;
use std::sync::Arc;

use super::cluster_flags::ClusterConfig;
use super::config::Config;
use crate::connections::listen::listen_when_free;
use crate::connections::tls::{Tls, TlsError};
use crate::replica::cluster::{IdentityError, PeerConnections, Replicas, ReplicasError, ReplicasOptions};
use crate::replica::copy::CopyDisks;
use crate::replica::files::SnapshotFiles;
use crate::replica::peers::{Hello, PeerAddress, PeerPatience, PeerToken, PeerTokenError, PeersError, PeersOptions};
use crate::snapshots::{OtherServices, SnapshotStore};
use crate::store::StoreFactory;

/// Connections to the peers' port whose other end has not proved that it is a service of the cluster.
const MAX_STRANGERS: u32 = 64;

/// Why a service does not start as one of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// The directory is not its own.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its copies cannot be used.
    #[error(transparent)]
    Replicas(#[from] ReplicasError),
    /// No token.
    #[error(transparent)]
    Token(#[from] PeerTokenError),
    /// The connections to peers cannot be made as configured.
    #[error(transparent)]
    Peers(#[from] PeersError),
    /// The CA of peers cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The peers' port cannot be listened on.
    #[error("cannot listen on {address}, where --peers says that the others connect to this service: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A thread has panicked.
    #[error("starting did not finish: {0}")]
    Unfinished(#[from] tokio::task::JoinError),
}

/// What a service keeps: its copies, what it has kept alone, and snapshots.
pub type Kept<'a> = (Arc<dyn CopyDisks>, Option<Arc<dyn StoreFactory>>, &'a Arc<SnapshotStore>);

/// Opens this service's copies, and connects it to its peers, with whom it shares `snapshots` and to whom it may bring what it has kept
/// `alone`. `listen` and `http` are the addresses of its ports for clients.
///
/// # Errors
/// Something is not as it was configured. Nothing runs then.
pub async fn start(
    cluster: ClusterConfig,
    config: &Config,
    (disks, alone, snapshots): Kept<'_>,
    tls: Option<Arc<Tls>>,
    (listen, http): (SocketAddr, SocketAddr),
) -> Result<(Arc<Replicas>, Arc<SnapshotFiles>), ReplicationError> {
    let token = PeerToken::read(&cluster.peer_token)?;
    if let (Some(tls), Some(ca)) = (&tls, cluster.peer_ca.clone().or_else(|| config.tls_client_ca.clone())) {
        tls.connect_with(ca, config.tls_client_crl.clone())?;
    }
    let peer = |(name, address): &(String, String)| PeerAddress { name: name.clone(), address: address.clone() };
    let what = format_args!("the address for peers, {},", cluster.address);
    let listener = listen_when_free(what, &cluster.address).await;
    let options = PeersOptions {
        listener: listener.map_err(|source| ReplicationError::Listen { address: cluster.address.clone(), source })?,
        peers: cluster.peers.iter().map(peer).collect(),
        token,
        tls,
        insecure: config.insecure,
        max_strangers: MAX_STRANGERS,
        patience: PeerPatience::default(),
    };
    options.check()?;
    let (client_address, http_address) = addresses(cluster.announce.as_deref(), listen, http);
    let (directory, name) = (config.dir.clone(), cluster.name.clone());
    let identified = tokio::task::spawn_blocking(move || Replicas::identify(&directory, &name)).await?;
    let (member, of_cluster) = identified?;
    let hello = Hello {
        member,
        cluster: of_cluster,
        name: cluster.name.clone(),
        zone: cluster.zone.clone(),
        client_address: client_address.clone(),
        http_address: http_address.clone(),
        peer_address: cluster.address.clone(),
        joins: cluster.joins,
    };
    let connections = Arc::new(PeerConnections::new(hello));
    let files = SnapshotFiles::new(snapshots.clone(), connections.clone());
    if of_cluster.is_some() {
        // Before any shard is opened. A service that joins later does so then.
        snapshots.share_with(&(files.clone() as Arc<dyn OtherServices>));
    }
    let replicas = ReplicasOptions {
        directory: config.dir.clone(),
        name: cluster.name,
        zone: cluster.zone,
        peers: cluster.peers,
        client_address,
        http_address,
        joins: cluster.joins,
        disks,
        alone,
        peering: connections.clone(),
    };
    let replicas = tokio::task::spawn_blocking(move || Replicas::start(replicas)).await??;
    connections.open(options, &replicas, &files)?;
    Ok((replicas, files))
}

/// Where clients reach the two ports: on the host that is announced, if one is.
fn addresses(announce: Option<&str>, listen: SocketAddr, http: SocketAddr) -> (String, String) {
    let Some(announce) = announce else { return (listen.to_string(), http.to_string()) };
    let host = announce.rsplit_once(':').map_or(announce, |(host, _)| host);
    (announce.to_owned(), format!("{host}:{}", http.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ports_are_on_the_host_that_is_announced() {
        let (listen, http) = ("0.0.0.0:7379".parse().expect("address"), "127.0.0.1:7380".parse().expect("address"));
        let pair = |client: &str, http: &str| (client.to_owned(), http.to_owned());
        assert_eq!(addresses(None, listen, http), pair("0.0.0.0:7379", "127.0.0.1:7380"));
        assert_eq!(addresses(Some("log-a:17379"), listen, http), pair("log-a:17379", "log-a:7380"));
        assert_eq!(addresses(Some("[::1]:7"), listen, http), pair("[::1]:7", "[::1]:7380"));
    }
}
