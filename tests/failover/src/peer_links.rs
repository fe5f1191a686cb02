//! The links between log services that keep a log together: one for each of them and each other one. Who has made a connection sends on it,
//! and who has accepted it only answers and says that it is there.

use std::time::Duration;

use anyhow::Result;

use crate::link::{Link, Way};
use crate::ports::RoundPorts;

/// All links between services; none if there is one service.
#[derive(Debug)]
pub struct PeerLinks {
    ports: RoundPorts,
    services: usize,
    /// From which service, to which.
    links: Vec<(usize, usize, Link)>,
}

impl PeerLinks {
    /// Opens them. What is sent takes that long, each way.
    ///
    /// # Errors
    /// A port is not free.
    pub fn open(ports: RoundPorts, services: usize, distance: Duration) -> Result<Self> {
        let mut peer_links = PeerLinks { ports, services, links: Vec::new() };
        for from in 0..services {
            for to in (0..services).filter(|&to| to != from) {
                let link = Link::open_over(ports.peer(from, to), ports.peer(to, to), distance)?;
                peer_links.links.push((from, to, link));
            }
        }
        Ok(peer_links)
    }

    /// Where this service reaches each; empty if it is alone.
    pub fn ports(&self, from: usize) -> Vec<u16> {
        let all = if self.services > 1 { 0..self.services } else { 0..0 };
        all.map(|to| self.ports.peer(from, to)).collect()
    }

    /// The links of a service to those others: those that carry what it sends ([`Way::There`]), and what is sent to it.
    pub fn of<'a>(
        &'a self,
        service: usize,
        others: &'a [usize],
        ways: &'a [Way],
    ) -> impl Iterator<Item = &'a Link> + 'a {
        let is_meant = move |(from, to): (usize, usize)| {
            (from == service && others.contains(&to) && ways.contains(&Way::There))
                || (to == service && others.contains(&from) && ways.contains(&Way::Back))
        };
        self.links.iter().filter(move |(from, to, _)| is_meant((*from, *to))).map(|(_, _, link)| link)
    }
}
