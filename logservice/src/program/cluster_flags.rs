//! The flags of the command line that make a service one of a cluster.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use durability_protocol::is_valid_name;

/// How many services keep a log.
const SERVICES: usize = 3;

/// How a service is one of a cluster.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterFlags {
    /// The three services that keep the logs together, this one included: name=host:port of each, separated by commas. There the others
    /// connect to it. All three need the same list. Without it the service keeps its logs alone
    #[arg(long, value_name = "NAME=HOST:PORT,...", value_delimiter = ',')]
    pub peers: Vec<String>,
    /// Name of this service in --peers
    #[arg(long, value_name = "NAME", requires = "peers")]
    pub name: Option<String>,
    /// Zone that this service is in. Of a shard whose leader is in the same one (durability.zone), it decides over the log if all is well
    #[arg(long, value_name = "ZONE", requires = "peers")]
    pub zone: Option<String>,
    /// File whose first line is a secret of at least 16 bytes, the same at all three services, by which they know each other
    #[arg(long, value_name = "FILE", requires = "peers")]
    pub peer_token: Option<PathBuf>,
    /// File with CAs (PEM) that issued the other services' certificates; with --tls-cert only. That of --tls-client-ca by default
    #[arg(long, value_name = "FILE", requires = "peers")]
    pub peer_ca: Option<PathBuf>,
    /// This service, whose directory is new, may be given the place of another one, with LOG.CLUSTER REPLACE. Then --peers names it and the
    /// services that stay. It changes nothing later
    #[arg(long, requires = "peers")]
    pub join: bool,
    /// Where clients reach this service: host:port, which the others tell when it decides over a log. The address of --listen by default
    #[arg(long, value_name = "HOST:PORT", requires = "peers")]
    pub announce: Option<String>,
}

/// A service of a cluster, as it was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Its name.
    pub name: String,
    /// Its zone; empty if it has none.
    pub zone: String,
    /// All services: their names, and where they take connections of the others.
    pub peers: Vec<(String, String)>,
    /// Where this one takes connections of the others.
    pub address: String,
    /// The file of the secret.
    pub peer_token: PathBuf,
    /// The CAs of the others' certificates, if they are not those of clients.
    pub peer_ca: Option<PathBuf>,
    /// Where clients reach it; the address on which it listens, if that is not said.
    pub announce: Option<String>,
    /// Whether it may be given the place of a service that is lost.
    pub joins: bool,
}

/// The flags do not fit together. Nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum ClusterFlagsError {
    /// A flag is missing.
    #[error("--peers needs {flag}: {why}")]
    Missing {
        /// Which.
        flag: &'static str,
        /// What it is for.
        why: &'static str,
    },
    /// A peer is written in another way.
    #[error("--peers: '{0}' is not name=host:port with a name of 1 to 64 of A-Z a-z 0-9 . _ : -")]
    Peer(String),
    /// There are more or less than three.
    #[error("--peers names {0} services, and logs are kept by {SERVICES}: name all {SERVICES}, this one included")]
    Count(usize),
    /// Two are alike.
    #[error("--peers: '{0}' is there twice")]
    Twice(String),
    /// No zone.
    #[error("--zone {0:?} is not a zone: 1 to 64 of A-Z a-z 0-9 . _ : -, not beginning with a dot")]
    Zone(String),
    /// This service is not among them.
    #[error("--peers does not name '{0}', which is this service by --name")]
    NotAmong(String),
    /// No address.
    #[error("--announce {0} is no host:port with which clients can do anything")]
    Announce(String),
    /// Clients cannot use the address.
    #[error("--listen {0} is no address that clients can be told: say with --announce how they reach this service")]
    Unspecified(SocketAddr),
}

impl ClusterFlags {
    /// What the flags say; none if the service is alone.
    ///
    /// # Errors
    /// They do not fit together, or not with these others.
    pub fn check(&self, listen: SocketAddr) -> Result<Option<ClusterConfig>, ClusterFlagsError> {
        if self.peers.is_empty() {
            return Ok(None);
        }
        let missing = |flag, why| ClusterFlagsError::Missing { flag, why };
        let peers = self.peers.iter().map(|text| parse_peer(text)).collect::<Result<Vec<_>, _>>()?;
        let mut seen = BTreeSet::new();
        for text in peers.iter().flat_map(|(name, address)| [name, address]) {
            if !seen.insert(text) {
                return Err(ClusterFlagsError::Twice(text.clone()));
            }
        }
        if peers.len() != SERVICES {
            return Err(ClusterFlagsError::Count(peers.len()));
        }
        let name = self.name.clone().ok_or_else(|| missing("--name", "which of the services this one is"))?;
        let own = peers.iter().find(|(peer, _)| *peer == name);
        let (_, address) = own.cloned().ok_or_else(|| ClusterFlagsError::NotAmong(name.clone()))?;
        if let Some(zone) = self.zone.clone().filter(|zone| !is_valid_name(zone)) {
            return Err(ClusterFlagsError::Zone(zone));
        }
        let peer_token = self.peer_token.clone();
        let peer_token =
            peer_token.ok_or_else(|| missing("--peer-token", "the secret by which the services know each other"))?;
        match &self.announce {
            Some(announce) if !is_address(announce) => return Err(ClusterFlagsError::Announce(announce.clone())),
            None if listen.ip().is_unspecified() => return Err(ClusterFlagsError::Unspecified(listen)),
            _ => {}
        }
        Ok(Some(ClusterConfig {
            name,
            zone: self.zone.clone().unwrap_or_default(),
            peers,
            address,
            peer_token,
            peer_ca: self.peer_ca.clone(),
            announce: self.announce.clone(),
            joins: self.join,
        }))
    }
}

fn parse_peer(text: &str) -> Result<(String, String), ClusterFlagsError> {
    let parts = text.split_once('=').filter(|(name, address)| is_valid_name(name) && is_address(address));
    let (name, address) = parts.ok_or_else(|| ClusterFlagsError::Peer(text.to_owned()))?;
    Ok((name.to_owned(), address.to_owned()))
}

/// Whether it is a host and a port.
fn is_address(text: &str) -> bool {
    let is_of_an_address = |character: char| character.is_ascii_graphic() && character != '=';
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && host.chars().all(is_of_an_address) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> ClusterFlags {
        ClusterFlags {
            peers: ["a=127.0.0.1:1", "b=log-b:2", "c=[::1]:3"].map(str::to_owned).to_vec(),
            name: Some("b".to_owned()),
            zone: None,
            peer_token: Some("/token".into()),
            peer_ca: None,
            announce: None,
            join: false,
        }
    }

    fn check(flags: &ClusterFlags) -> Result<Option<ClusterConfig>, ClusterFlagsError> {
        flags.check("127.0.0.1:7379".parse().expect("an address"))
    }

    #[test]
    fn a_service_is_one_of_three_or_alone() {
        let config = check(&flags()).expect("they fit").expect("a cluster");
        assert_eq!((config.name.as_str(), config.address.as_str(), config.zone.as_str()), ("b", "log-b:2", ""));
        assert_eq!(config.peers[2], ("c".to_owned(), "[::1]:3".to_owned()));
        assert_eq!(check(&ClusterFlags::default()).expect("they fit"), None);
    }

    #[test]
    fn flags_that_do_not_fit_are_refused() {
        let error = |change: &dyn Fn(&mut ClusterFlags)| {
            let mut flags = flags();
            change(&mut flags);
            check(&flags).expect_err("refused").to_string()
        };
        let peers = |peers: &[&str]| {
            let peers: Vec<_> = peers.iter().map(|&peer| peer.to_owned()).collect();
            error(&|flags| flags.peers = peers.clone())
        };
        for wrong in ["a", "a=", "a=h", "a=h:0", "a=h:70000", "=h:1", "a/b=h:1", "a=h h:1", "a=:1"] {
            let text = peers(&[wrong, "b=h:2", "c=h:3"]);
            assert!(text.contains("is not name=host:port"), "{text}");
        }
        assert!(peers(&["a=h:1", "b=h:2"]).contains("names 2 services"));
        assert!(peers(&["a=h:1", "b=h:2", "c=h:3", "d=h:4"]).contains("names 4 services"));
        assert!(peers(&["a=h:1", "b=h:2", "b=h:3"]).contains("'b' is there twice"));
        assert!(peers(&["a=h:1", "b=h:2", "c=h:2"]).contains("'h:2' is there twice"));
        assert!(peers(&["a=h:1", "d=h:2", "c=h:3"]).contains("does not name 'b'"));
        assert!(error(&|flags| flags.name = None).contains("needs --name"));
        assert!(error(&|flags| flags.zone = Some("zone 1".to_owned())).contains("--zone \"zone 1\" is not a zone"));
        assert!(error(&|flags| flags.peer_token = None).contains("needs --peer-token"));
        assert!(error(&|flags| flags.announce = Some("host".to_owned())).contains("--announce host"));
        let any = "0.0.0.0:7379".parse().expect("an address");
        let text = flags().check(any).expect_err("refused").to_string();
        assert!(text.contains("--announce"), "{text}");
        let announced = ClusterFlags { announce: Some("log-b:7379".to_owned()), ..flags() };
        announced.check(any).expect("they fit");
    }
}
