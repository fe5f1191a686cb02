//! The ports that a round uses: fewer than a hundred, from a first one on.

use std::net::TcpListener;
use std::ops::Range;

use anyhow::{Context, Result};

/// Where harnesses that are told nothing find theirs. Below the ports that the system gives to outgoing connections.
const ALL: Range<u16> = 28400..30000;
/// How many one has: for two systems side by side.
const OF_HARNESS: u16 = 200;

/// Ports that no other harness takes for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    /// The first one.
    pub first: u16,
    /// Listens on the last one.
    _guard: TcpListener,
}

impl Claim {
    /// Of ports that nobody has claimed.
    ///
    /// # Errors
    /// There are none.
    pub fn of_any() -> Result<Self> {
        let claim = |first: u16| {
            let guard = TcpListener::bind(("127.0.0.1", first + OF_HARNESS - 1)).ok()?;
            Some(Claim { first, _guard: guard })
        };
        let range = || format!("all ports from {} to {} are taken: give --base-port", ALL.start, ALL.end - 1);
        ALL.step_by(OF_HARNESS.into()).find_map(claim).with_context(range)
    }
}

/// A node for each shard and number.
const MOST_NODES: u16 = 8;
const MOST_SERVICES: u16 = 3;

/// All ports of a round.
#[derive(Debug, Clone, Copy)]
pub struct RoundPorts(pub u16);

impl RoundPorts {
    /// Where a log service listens. The next one is its HTTP.
    pub fn service(self, service: usize) -> u16 {
        self.0 + 2 * service as u16
    }

    /// Where a service reaches another one, through a link. Its own is where it listens.
    pub fn peer(self, from: usize, to: usize) -> u16 {
        self.0 + 6 + MOST_SERVICES * from as u16 + to as u16
    }

    /// Where a node listens.
    pub fn node(self, node: usize) -> u16 {
        self.of_nodes(0, node)
    }

    /// Where clients reach a node, through a link.
    pub fn client(self, node: usize) -> u16 {
        self.of_nodes(1, node)
    }

    /// Where a node of a cluster listens to others.
    pub fn bus(self, node: usize) -> u16 {
        self.of_nodes(2, node)
    }

    /// Where the others reach it, through a link.
    pub fn bus_link(self, node: usize) -> u16 {
        self.of_nodes(3, node)
    }

    /// Where a node reaches a service, through a link.
    pub fn log_link(self, node: usize, service: usize) -> u16 {
        self.of_nodes(4 + service as u16, node)
    }

    fn of_nodes(self, row: u16, node: usize) -> u16 {
        self.0 + 6 + MOST_SERVICES * MOST_SERVICES + MOST_NODES * row + node as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn two_harnesses_have_no_port_in_common() {
        let claims = [Claim::of_any().expect("free"), Claim::of_any().expect("free")];
        assert!(claims[0].first.abs_diff(claims[1].first) >= OF_HARNESS, "{claims:?}");
    }

    #[test]
    fn no_two_are_the_same_and_all_are_within_a_hundred() {
        let ports = RoundPorts(1000);
        let mut all: Vec<u16> = Vec::new();
        for service in 0..3 {
            all.extend([ports.service(service), ports.service(service) + 1]);
            all.extend((0..3).map(|to| ports.peer(service, to)));
            all.extend((0..8).map(|node| ports.log_link(node, service)));
        }
        for node in 0..8 {
            all.extend([ports.node(node), ports.client(node), ports.bus(node), ports.bus_link(node)]);
        }
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        assert!(all.iter().all(|port| (1000..1100).contains(port)), "{all:?}");
    }
}
