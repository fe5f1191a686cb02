//! The peers that this service connects to. They change when a service is replaced.

use std::sync::{Arc, RwLock, RwLockReadGuard};

use tokio::sync::watch;

use super::link::Link;
use super::options::PeerAddress;
use super::outgoing;
use super::shared::{Lane, Shared};

/// The links to all peers.
pub struct Links {
    shared: Arc<Shared>,
    stopping: watch::Receiver<bool>,
    links: RwLock<Vec<Kept>>,
}

/// A link, whose connections end when this is dropped.
struct Kept {
    link: Arc<Link>,
    _ends: watch::Sender<()>,
}

impl Links {
    /// None yet. Their connections end with `stopping`.
    pub fn new(shared: Arc<Shared>, stopping: watch::Receiver<bool>) -> Self {
        Links { shared, stopping, links: RwLock::default() }
    }

    /// Keeps connections to those peers and no others. Must run within the runtime.
    pub fn set(&self, peers: Vec<PeerAddress>) {
        let own = self.shared.registry.own().borrow().name.clone();
        let mut links = self.links.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut before = std::mem::take(&mut *links);
        for peer in peers.into_iter().filter(|peer| peer.name != own) {
            let kept = before.iter().position(|kept| kept.link.peer == peer);
            links.push(match kept {
                Some(at) => before.swap_remove(at),
                None => self.keep(peer),
            });
        }
    }

    fn keep(&self, peer: PeerAddress) -> Kept {
        let link = Arc::new(Link::new(peer));
        let (ends, end) = watch::channel(());
        for lane in Lane::ALL {
            let kept = outgoing::keep(link.clone(), lane, self.shared.clone());
            let (link, mut stopping, mut end) = (link.clone(), self.stopping.clone(), end.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = kept => {}
                    _ = stopping.wait_for(|stopping| *stopping) => {}
                    // Nothing is ever sent: it is dropped.
                    _ = end.changed() => link.disconnected(lane, "it is no peer any more"),
                }
            });
        }
        Kept { link, _ends: ends }
    }

    /// The names of all peers.
    pub fn names(&self) -> Vec<String> {
        self.read().iter().map(|kept| kept.link.peer.name.clone()).collect()
    }

    /// The link to the peer of that name.
    pub fn named(&self, name: &str) -> Option<Arc<Link>> {
        self.read().iter().find(|kept| kept.link.peer.name == name).map(|kept| kept.link.clone())
    }

    /// The link to a member that has told who it is.
    pub fn of(&self, member: u64) -> Option<Arc<Link>> {
        self.read().iter().find(|kept| kept.link.member() == Some(member)).map(|kept| kept.link.clone())
    }

    /// Sends what was queued for any peer, on this thread as far as connections take it at once.
    pub fn send_now(&self) {
        self.read().iter().for_each(|kept| kept.link.send_now());
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Kept>> {
        self.links.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
