//! Connections whose client is not known yet: in the TLS handshake, before the login, or before the head of an HTTP request that a token
//! allows. They take no place from known clients. Their number is bounded per network and in total, and when a bound is reached the
//! oldest connection is closed: a client with a token stays a stranger for a few milliseconds only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::lingering::Lingering;
use super::network::Network;
use crate::base::log_throttle::LineThrottle;

/// One network may have one of so many parts of a port's strangers: half.
const SHARE_OF_NETWORK: usize = 2;

/// The strangers of a port.
pub struct Strangers {
    most: usize,
    most_of_network: usize,
    /// How log lines call such a connection.
    port: &'static str,
    state: Mutex<State>,
    lingering: Mutex<Lingering>,
    lines: LineThrottle,
}

#[derive(Default)]
struct State {
    next: u64,
    /// In the order in which they came.
    present: BTreeMap<u64, (Network, Arc<Ending>)>,
    /// The tickets of each network.
    networks: HashMap<Network, BTreeSet<u64>>,
    /// How many tickets each network has, the largest last.
    counts: BTreeSet<(usize, Network)>,
}

/// Ends a connection's task.
#[derive(Debug, Default)]
pub struct Ending {
    task: OnceLock<AbortHandle>,
    is_due: AtomicBool,
    /// A second handle of the socket, from the accept until the client is known: the connection stays open for the other end until this is
    /// dropped as well.
    socket: Mutex<Option<OwnedFd>>,
}

impl Ending {
    /// For a connection whose other end may have to wait before it learns that the connection was ended. `socket` is a second handle of it.
    pub fn lingering(socket: OwnedFd) -> Self {
        Ending { socket: Mutex::new(Some(socket)), ..Ending::default() }
    }

    fn take_socket(&self) -> Option<OwnedFd> {
        self.socket.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }

    /// Sets the connection's task, and ends it at once if that was requested before.
    pub fn bind(&self, task: AbortHandle) {
        let _ = self.task.set(task);
        if self.is_due.load(Ordering::SeqCst) {
            self.end();
        }
    }

    fn end(&self) {
        self.is_due.store(true, Ordering::SeqCst);
        self.task.get().inspect(|task| task.abort());
    }
}

/// A connection that began as a stranger's. Counts as one until its client is known, or it is dropped.
pub struct Guest {
    strangers: Arc<Strangers>,
    /// Its ticket among the strangers, as long as it is one.
    ticket: Option<u64>,
    network: Network,
    ending: Arc<Ending>,
}

impl Strangers {
    /// At most `most` at a time, and half as many of one network, but at least one. Of those that are over, at most `lingering` stay open
    /// for the other end.
    pub fn new(most: u32, lingering: usize, port: &'static str) -> Arc<Self> {
        let most = (most as usize).max(1);
        let most_of_network = (most / SHARE_OF_NETWORK).max(1);
        let lingering = Mutex::new(Lingering::new(lingering, Instant::now()));
        Arc::new(Strangers {
            most,
            most_of_network,
            port,
            state: Mutex::default(),
            lingering,
            lines: LineThrottle::new(),
        })
    }

    /// Admits one more, which `ending` can end. If its network or the port has reached its bound, the oldest stranger is ended: of that
    /// network, or of the network that has the most.
    pub fn enter(self: &Arc<Self>, network: Network, ending: Arc<Ending>) -> Guest {
        let mut state = self.lock();
        let of_network = state.networks.get(&network).map_or(0, BTreeSet::len);
        let full = if of_network >= self.most_of_network {
            Some(network)
        } else if state.present.len() >= self.most {
            state.counts.last().map(|&(_, network)| network)
        } else {
            None
        };
        let ended = full.and_then(|network| state.remove_oldest(network).map(|ending| (network, ending)));
        let ticket = state.add(network, ending.clone());
        drop(state);
        if let Some((network, ending)) = ended {
            self.close(&ending);
            ending.end();
            if let Some(others) = self.lines.pass() {
                tracing::warn!(
                    "{} of {network} closed: it had not logged in, and there are as many such connections as --max-strangers allows \
                     ({others} more such lines left out)",
                    self.port
                );
            }
        }
        Guest { strangers: self.clone(), ticket: Some(ticket), network, ending }
    }

    /// The port's lingering connections, and the pace of new ones.
    pub fn lingering(&self) -> MutexGuard<'_, Lingering> {
        self.lingering.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Closes the second handle of a stranger that is over, now or later. It does not linger if the other end has closed the connection.
    fn close(&self, ending: &Ending) {
        if let Some(socket) = ending.take_socket().filter(is_open) {
            self.lingering().add(socket, Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn add(&mut self, network: Network, ending: Arc<Ending>) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.present.insert(ticket, (network, ending));
        let tickets = self.networks.entry(network).or_default();
        self.counts.remove(&(tickets.len(), network));
        tickets.insert(ticket);
        self.counts.insert((tickets.len(), network));
        ticket
    }

    /// `None` if it was removed before.
    fn remove(&mut self, ticket: u64) -> Option<Arc<Ending>> {
        let (network, ending) = self.present.remove(&ticket)?;
        if let Some(tickets) = self.networks.get_mut(&network) {
            self.counts.remove(&(tickets.len(), network));
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.networks.remove(&network);
            } else {
                self.counts.insert((tickets.len(), network));
            }
        }
        Some(ending)
    }

    fn remove_oldest(&mut self, network: Network) -> Option<Arc<Ending>> {
        let oldest = *self.networks.get(&network)?.first()?;
        self.remove(oldest)
    }
}

impl Guest {
    /// The network that it comes from.
    pub fn network(&self) -> Network {
        self.network
    }

    /// Its client is known now. `false` if the connection was ended before.
    pub fn leave(&mut self) -> bool {
        let Some(ticket) = self.ticket.take() else { return true };
        let was_present = self.strangers.lock().remove(ticket).is_some();
        // From now on the connection ends with its stream.
        drop(was_present.then(|| self.ending.take_socket()));
        was_present
    }

    /// Counts it as a stranger again, as the youngest.
    pub fn enter_again(&mut self) {
        if self.ticket.is_none() {
            let again = self.strangers.enter(self.network, self.ending.clone());
            *self = again;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            if self.strangers.lock().remove(ticket).is_some() {
                self.strangers.close(&self.ending);
            }
        }
    }
}

/// Whether the other end of a connection has not closed it.
fn is_open(socket: &OwnedFd) -> bool {
    match rustix::net::recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((bytes, _)) => bytes > 0,
        Err(error) => error == Errno::WOULDBLOCK,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn network(number: u8) -> Network {
        Network::of([10, 0, 0, number].into())
    }

    /// Guests whose tasks wait for ever, and these tasks.
    struct Port {
        strangers: Arc<Strangers>,
        guests: Vec<(Guest, tokio::task::JoinHandle<()>)>,
    }

    impl Port {
        fn new(most: u32) -> Self {
            Port { strangers: Strangers::new(most, 0, "a connection"), guests: Vec::new() }
        }

        fn enter(&mut self, of: u8) {
            let ending = Arc::new(Ending::default());
            let guest = self.strangers.enter(network(of), ending.clone());
            let task = tokio::spawn(std::future::pending());
            ending.bind(task.abort_handle());
            self.guests.push((guest, task));
        }

        /// The numbers of those that were ended.
        async fn ended(&self) -> Vec<usize> {
            // Lets the ended tasks run first.
            tokio::task::yield_now().await;
            (0..self.guests.len()).filter(|&number| self.guests[number].1.is_finished()).collect()
        }
    }

    #[tokio::test]
    async fn when_a_network_has_its_share_its_oldest_goes() {
        let mut port = Port::new(8);
        port.enter(2);
        for _ in 0..4 {
            port.enter(1);
        }
        assert!(port.ended().await.is_empty());
        port.enter(1);
        port.enter(1);
        assert_eq!(port.ended().await, [1, 2], "and no other network's");
    }

    #[tokio::test]
    async fn when_all_have_their_share_the_oldest_of_the_largest_network_goes() {
        let mut port = Port::new(4);
        for of in [3, 1, 1, 2, 4] {
            port.enter(of);
        }
        assert_eq!(port.ended().await, [1]);
    }

    #[tokio::test]
    async fn known_and_closed_connections_make_room_and_are_not_ended() {
        let mut port = Port::new(4);
        port.enter(1);
        port.enter(1);
        assert!(port.guests[0].0.leave());
        drop(port.guests.remove(1));
        port.enter(1);
        port.enter(1);
        assert!(port.ended().await.is_empty());
        port.enter(1);
        assert_eq!(port.ended().await, [1]);
        assert!(!port.guests[1].0.leave(), "it was ended before");
        port.guests[0].0.enter_again();
        assert_eq!(port.ended().await, [1, 2], "it takes a stranger's place");
    }

    #[tokio::test]
    async fn a_task_that_is_ended_before_it_runs_ends_when_it_does() {
        let strangers = Strangers::new(1, 0, "a connection");
        let first = Arc::new(Ending::default());
        let _guests = [strangers.enter(network(1), first.clone()), strangers.enter(network(2), Arc::default())];
        let task = tokio::spawn(std::future::pending::<()>());
        first.bind(task.abort_handle());
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
    }

    /// A guest in the middle of a crowd, and the other end of its connection.
    fn crowded_guest() -> (Guest, UnixStream) {
        let strangers = Strangers::new(1000, 1000, "a connection");
        strangers.lingering().close_nothing_at_once();
        let (here, there) = UnixStream::pair().expect("a pair");
        there.set_nonblocking(true).expect("set");
        (strangers.enter(network(1), Arc::new(Ending::lingering(here.into()))), there)
    }

    fn reads(mut other_end: &UnixStream) -> std::io::Result<usize> {
        other_end.read(&mut [0])
    }

    #[tokio::test]
    async fn in_a_crowd_the_other_end_of_a_stranger_does_not_learn_at_once_that_it_is_over() {
        let (guest, other_end) = crowded_guest();
        let _lingering_ends_with_these = guest.strangers.clone();
        drop(guest);
        assert_eq!(reads(&other_end).expect_err("open for the other end").kind(), ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn a_known_connection_does_not_linger() {
        let (mut guest, other_end) = crowded_guest();
        assert!(guest.leave());
        assert_eq!(reads(&other_end).expect("closed with its stream; there is none here"), 0);
    }

    #[tokio::test]
    async fn a_connection_that_the_other_end_has_closed_does_not_linger() {
        let (guest, other_end) = crowded_guest();
        let strangers = guest.strangers.clone();
        drop(other_end);
        drop(guest);
        assert_eq!(strangers.lingering().next_due(), None);
    }

    #[tokio::test]
    async fn there_is_room_for_at_least_one() {
        let mut port = Port::new(1);
        port.enter(1);
        port.enter(2);
        assert_eq!(port.ended().await, [0]);
    }
}
