//! How a service reaches its peers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::error::PeersError;
use super::shared::PeerPatience;
use super::token::PeerToken;
use crate::connections::tls::Tls;

/// A service of the cluster, as `--peers` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its name.
    pub name: String,
    /// Its host and its port for peers.
    pub address: String,
}

/// How a service reaches its peers.
pub struct PeersOptions {
    /// Where this service takes connections of peers.
    pub listener: TcpListener,
    /// The services of the cluster. That with this service's own name is passed over.
    pub peers: Vec<PeerAddress>,
    /// The token that all of them have.
    pub token: PeerToken,
    /// TLS, with which all connections are made and taken. It must have been told the CA of peers ([`Tls::connect_with`]).
    pub tls: Option<Arc<Tls>>,
    /// Peers on other machines are reached without TLS.
    pub insecure: bool,
    /// Connections whose other end has not proved that it has the token.
    pub max_strangers: u32,
    /// How long peers are waited for.
    pub patience: PeerPatience,
}

impl PeerAddress {
    /// Its host, without the brackets of an IPv6 address.
    pub fn host(&self) -> Option<&str> {
        let (host, port) = self.address.rsplit_once(':')?;
        let is_bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
        let host = if is_bracketed { &host[1..host.len() - 1] } else { host };
        let is_address = !host.is_empty() && (is_bracketed || !host.contains([':', '[', ']']));
        (is_address && port.parse::<u16>().is_ok_and(|port| port != 0)).then_some(host)
    }

    /// Whether what is sent there stays on this machine.
    fn is_loopback(&self) -> bool {
        self.host().is_some_and(|host| {
            host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
        })
    }
}

impl PeersOptions {
    /// Checks what can be checked before anything is done.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), PeersError> {
        check_addresses(&self.peers, self.tls.is_some() || self.insecure)?;
        match &self.tls {
            Some(tls) if tls.client_config().is_none() => Err(PeersError::NoCa),
            _ => Ok(()),
        }
    }
}

/// Checks peers that connections are to be made to. `may_leave` is whether they may be on other machines.
pub(super) fn check_addresses(peers: &[PeerAddress], may_leave: bool) -> Result<(), PeersError> {
    let mut names = BTreeSet::new();
    for PeerAddress { name, .. } in peers {
        if !names.insert(name) {
            return Err(PeersError::Twice(name.clone()));
        }
    }
    for peer in peers {
        let PeerAddress { name, address } = peer.clone();
        if peer.host().is_none() {
            return Err(PeersError::Address { name, address });
        }
        if !may_leave && !peer.is_loopback() {
            return Err(PeersError::Plain { name, address });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> PeerAddress {
        PeerAddress { name: "b".to_owned(), address: address.to_owned() }
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (address, host) in [
            ("log-b:7381", Some("log-b")),
            ("10.0.0.5:1", Some("10.0.0.5")),
            ("[::1]:7381", Some("::1")),
            ("::1:7381", None),
            ("log-b", None),
            (":7381", None),
            ("[]:7381", None),
            ("log-b:0", None),
            ("log-b:70000", None),
        ] {
            assert_eq!(peer(address).host(), host, "{address}");
        }
    }

    #[tokio::test]
    async fn what_would_leave_the_machine_in_the_open_is_refused() {
        let token = PeerToken::of("a token of some length").expect("long enough");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let patience = PeerPatience::default();
        let peers = Vec::new();
        let mut options =
            PeersOptions { listener, peers, token, tls: None, insecure: false, max_strangers: 8, patience };
        let mut check = |addresses: &[(&str, &str)], insecure| {
            let peers =
                addresses.iter().map(|(name, address)| PeerAddress { name: (*name).to_owned(), ..peer(address) });
            options.peers = peers.collect();
            options.insecure = insecure;
            options.check().map_err(|error| error.to_string())
        };
        for address in ["127.0.0.1:7", "[::1]:7", "localhost:7", "[::ffff:127.0.0.1]:7"] {
            check(&[("b", address)], false).expect("stays here");
        }
        for address in ["10.0.0.5:7", "log-b:7", "[2001:db8::1]:7"] {
            let text = check(&[("b", address)], false).expect_err("leaves");
            assert!(text.contains("--tls-cert") && text.contains("--insecure") && text.contains(address), "{text}");
            check(&[("b", address)], true).expect("accepted");
        }
        let text = check(&[("b", "localhost:7"), ("b", "localhost:8")], false).expect_err("twice");
        assert!(text.contains("two peers named b"), "{text}");
        let text = check(&[("b", "localhost")], true).expect_err("no port");
        assert!(text.contains("write host:port"), "{text}");
    }
}
