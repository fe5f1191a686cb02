//! Who the peers are, and that no two services pass for the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{watch, Notify};
use tokio::time::{timeout_at, Instant};

use crate::replica::wire::Hello;

/// All that is known of peers.
pub struct Registry {
    own: watch::Receiver<Hello>,
    /// By name. All that are expected, but this service.
    peers: Mutex<BTreeMap<String, Peer>>,
    /// Members that were replaced by others.
    retired: Mutex<BTreeSet<u64>>,
    /// Told when a connection has ended.
    left: Notify,
}

/// How long a connection waits for older ones that stand in its way: a process that was started again is faster than the end of those that
/// it had before.
const CONFLICT: Duration = Duration::from_millis(500);

/// Services that are not expected, and may be given a place.
const MOST_GUESTS: usize = 8;

/// Why a connection cannot be let in.
#[derive(Debug)]
enum NotIn {
    /// Whatever becomes of other connections.
    Never(String),
    /// As long as there are others.
    Yet(String),
}

#[derive(Default)]
struct Peer {
    hello: Option<Hello>,
    /// Drawn by its process when it started.
    process: u64,
    /// Connections to it and from it.
    connections: usize,
    /// It is not expected, and may be given a place.
    is_guest: bool,
}

/// A connection counts until this is dropped.
pub struct Presence {
    registry: Arc<Registry>,
    name: String,
}

impl Registry {
    /// With peers of those names.
    pub fn new(own: watch::Receiver<Hello>, names: impl Iterator<Item = String>) -> Arc<Self> {
        let peers = names.map(|name| (name, Peer::default())).collect();
        Arc::new(Registry { own, peers: Mutex::new(peers), retired: Mutex::default(), left: Notify::new() })
    }

    /// Peers of those names are expected from now on, and no others. Who is connected stays so.
    pub fn expect(&self, names: &BTreeSet<String>) {
        let own = self.own.borrow().name.clone();
        let mut peers = self.lock();
        peers.retain(|name, peer| names.contains(name) || peer.connections > 0);
        peers.iter_mut().for_each(|(name, peer)| peer.is_guest = !names.contains(name));
        for name in names.iter().filter(|name| **name != own) {
            peers.entry(name.clone()).or_default();
        }
    }

    /// Those members were replaced by others: they are let in no more.
    pub fn retire(&self, members: BTreeSet<u64>) {
        *self.retired() = members;
    }

    /// Whether a member was replaced by another.
    pub fn is_retired(&self, member: u64) -> bool {
        self.retired().contains(&member)
    }

    fn retired(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.retired.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What this service tells of itself now, and how that changes.
    pub fn own(&self) -> watch::Receiver<Hello> {
        self.own.clone()
    }

    /// The last that each peer has told.
    pub fn known(&self) -> Vec<Hello> {
        self.lock().values().filter_map(|peer| peer.hello.clone()).collect()
    }

    /// A connection of a peer that has proved that it has the token. Waits a moment for older connections that stand in its way.
    ///
    /// # Errors
    /// Why it cannot be let in.
    pub async fn enter(self: &Arc<Self>, hello: &Hello, process: u64) -> Result<Presence, String> {
        let until = Instant::now() + CONFLICT;
        loop {
            let mut left = pin!(self.left.notified());
            left.as_mut().enable();
            match self.enter_now(hello, process) {
                Ok(presence) => return Ok(presence),
                Err(NotIn::Never(why)) => return Err(why),
                Err(NotIn::Yet(why)) => timeout_at(until, left).await.map_err(|_| why)?,
            }
        }
    }

    fn enter_now(self: &Arc<Self>, hello: &Hello, process: u64) -> Result<Presence, NotIn> {
        self.check_against_own(hello).map_err(NotIn::Never)?;
        let mut peers = self.lock();
        check_against_others(&peers, hello, process).map_err(NotIn::Yet)?;
        let is_guest = !peers.contains_key(&hello.name);
        let guests = peers.values().filter(|peer| peer.is_guest).count();
        if is_guest && (!hello.joins || guests >= MOST_GUESTS) {
            let own = &self.own.borrow().name;
            return Err(NotIn::Never(format!("{} is not among the --peers of {own}", hello.name)));
        }
        let peer = peers.entry(hello.name.clone()).or_insert_with(|| Peer { is_guest, ..Peer::default() });
        // A process that has joined a cluster does not leave it: what says otherwise was overtaken.
        let is_overtaken = peer.process == process
            && peer.hello.as_ref().is_some_and(|known| known.member == hello.member && known.cluster.is_some())
            && hello.cluster.is_none();
        if !is_overtaken {
            peer.hello = Some(hello.clone());
        }
        peer.process = process;
        peer.connections += 1;
        Ok(Presence { registry: self.clone(), name: hello.name.clone() })
    }

    fn check_against_own(&self, hello: &Hello) -> Result<(), String> {
        let own = self.own.borrow();
        let Hello { name, member, .. } = hello;
        if *name == own.name {
            return Err(format!("the service at the other end is named {name} as well: give each a --name of its own"));
        }
        if self.is_retired(*member) {
            return Err(format!(
                "another service has the place of this {name} by LOG.CLUSTER REPLACE: stop it; it may be given a place again with an empty \
                 --dir and --join"
            ));
        }
        if *member == own.member || *member == 0 {
            return Err(format!("{name} and {} have the same member id: was a directory copied?", own.name));
        }
        match (hello.cluster, own.cluster) {
            (Some(theirs), Some(ours)) if theirs != ours => {
                Err(format!("{name} is of cluster {theirs:016x}, and {} of cluster {ours:016x}", own.name))
            }
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Peer>> {
        self.peers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn check_against_others(peers: &BTreeMap<String, Peer>, hello: &Hello, process: u64) -> Result<(), String> {
    let Hello { name, member, .. } = hello;
    let connected = peers.iter().filter(|(_, peer)| peer.connections > 0);
    for (other, peer) in connected {
        let is_same_member = peer.hello.as_ref().is_some_and(|hello| hello.member == *member);
        if other != name && is_same_member {
            return Err(format!("{name} and {other} have the same member id: was a directory copied?"));
        }
        if other == name && !is_same_member {
            return Err(format!("another service named {name} is connected: is its --name used twice?"));
        }
        if other == name && peer.process != process {
            return Err(format!("another process of {name} is connected: is it started twice?"));
        }
    }
    Ok(())
}

impl Presence {
    /// The peer tells something else of itself.
    ///
    /// # Errors
    /// Why it cannot stay.
    pub fn told(&self, hello: &Hello) -> Result<(), String> {
        self.registry.check_against_own(hello)?;
        let mut peers = self.registry.lock();
        let known = peers.get_mut(&self.name).and_then(|peer| peer.hello.as_mut());
        match known {
            Some(known) if (&known.name, known.member) == (&hello.name, hello.member) => {
                known.clone_from(hello);
                Ok(())
            }
            _ => Err(format!("{} cannot become another service without a new connection", self.name)),
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut peers = self.registry.lock();
        if let Some(peer) = peers.get_mut(&self.name) {
            peer.connections -= 1;
            if peer.is_guest && peer.connections == 0 {
                peers.remove(&self.name);
            }
        }
        drop(peers);
        self.registry.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &str, member: u64, cluster: Option<u64>) -> Hello {
        Hello { name: name.to_owned(), member, cluster, ..Hello::default() }
    }

    fn registry() -> Arc<Registry> {
        let (_, own) = watch::channel(hello("a", 1, Some(7)));
        Registry::new(own, ["b", "c"].map(str::to_owned).into_iter())
    }

    #[test]
    fn no_two_services_pass_for_one() {
        let registry = registry();
        let refused_process = |hello: Hello, process, why: &str| {
            let text = match registry.enter_now(&hello, process).map(drop).expect_err("refused") {
                NotIn::Never(text) | NotIn::Yet(text) => text,
            };
            assert!(text.contains(why) && text.len() < 255, "{text}");
        };
        let refused = |hello, why| refused_process(hello, 1, why);
        refused(hello("a", 2, None), "name of its own");
        refused(hello("b", 1, None), "same member id");
        refused(hello("b", 0, None), "same member id");
        refused(hello("d", 2, None), "not among the --peers");
        refused(hello("b", 2, Some(8)), "of cluster 0000000000000008");
        let first = registry.enter_now(&hello("b", 2, Some(7)), 1).expect("let in");
        let second = registry.enter_now(&hello("b", 2, Some(7)), 1).expect("let in");
        refused(hello("b", 3, Some(7)), "used twice");
        refused(hello("c", 2, Some(7)), "same member id");
        refused_process(hello("b", 2, Some(7)), 2, "started twice");
        drop(first);
        refused(hello("b", 3, Some(7)), "used twice");
        drop(second);
        // It was started with an empty directory.
        let again = registry.enter_now(&hello("b", 3, None), 2).expect("let in");
        assert_eq!(registry.known(), [hello("b", 3, None)]);
        again.told(&hello("b", 3, Some(7))).expect("it has joined");
        assert_eq!(registry.known(), [hello("b", 3, Some(7))]);
        for other in [hello("b", 3, Some(8)), hello("b", 4, Some(7)), hello("c", 3, Some(7)), hello("a", 3, None)] {
            again.told(&other).expect_err("it cannot become that");
        }
        assert_eq!(registry.known(), [hello("b", 3, Some(7))]);
    }

    #[test]
    fn who_is_not_expected_is_let_in_to_be_given_a_place() {
        let registry = registry();
        let guest = |name: &str, member| Hello { joins: true, ..hello(name, member, None) };
        let first = registry.enter_now(&guest("d", 4), 1).expect("let in");
        assert_eq!(registry.known(), [guest("d", 4)]);
        let others: Vec<_> = (1..MOST_GUESTS as u64)
            .map(|number| registry.enter_now(&guest(&format!("g{number}"), 100 + number), 1).expect("let in"))
            .collect();
        registry.enter_now(&guest("e", 5), 1).map(drop).expect_err("there are too many");
        drop(others);
        assert_eq!(registry.known(), [guest("d", 4)], "nothing is kept of guests that have left");
        registry.expect(&["b", "d"].map(str::to_owned).into());
        drop(first);
        registry.enter_now(&hello("d", 4, Some(7)), 1).expect("it is expected");
        registry.enter_now(&hello("c", 3, Some(7)), 1).map(drop).expect_err("it is not any more");
    }

    #[test]
    fn who_was_replaced_is_not_let_in() {
        let registry = registry();
        let presence = registry.enter_now(&hello("c", 3, Some(7)), 1).expect("let in");
        registry.retire(BTreeSet::from([3]));
        let text = presence.told(&hello("c", 3, Some(7))).expect_err("it was replaced meanwhile");
        assert!(text.contains("REPLACE") && text.len() < 255, "{text}");
        drop(presence);
        registry.enter_now(&hello("c", 3, Some(7)), 1).map(drop).expect_err("it was replaced");
        registry.enter_now(&hello("c", 4, None), 1).expect("this is another one");
    }

    #[tokio::test]
    async fn a_process_that_was_started_again_waits_for_its_last_connections_to_end() {
        let registry = registry();
        let old = registry.enter(&hello("b", 2, None), 1).await.expect("let in");
        registry.enter(&hello("b", 2, None), 2).await.map(drop).expect_err("the other one is there");
        let hello = hello("b", 2, None);
        let (new, ()) = tokio::join!(registry.enter(&hello, 2), async { drop(old) });
        drop(new.expect("let in"));
    }
}
