//! Times in which nothing is read from clients, so that they wait instead of being refused. Main thread only.

use std::time::Duration;

use crate::decide::gate::Gate;
use crate::server::cluster::membership::Membership;
use crate::server::connections::ServerConnections;
use crate::server::read_pause::ReadPause;

/// The longest that clients wait for the next leader after a planned failover in a cluster. Those of a plain cluster wait up to 5 s.
const REDIRECT_LIMIT: Duration = Duration::from_secs(2);

/// The pause that goes on, if there is one, and what it is for.
#[derive(Default)]
pub struct ReadPauses {
    current: Option<ReadPause>,
    /// The server has just started: clients wait until the log holds what it started with, if that does not take long. Meanwhile this node
    /// holds up no candidate, and the server is then not in the middle of a background save for the log.
    until_seeded: bool,
    for_failover: bool,
    /// This node has handed over in a cluster: clients wait until that slot, which was its own, has another owner.
    until_moved: Option<u16>,
}

impl ReadPauses {
    /// Begins a pause, unless one goes on. Does nothing if the server's internals are not known.
    pub fn begin(&mut self) {
        self.current.get_or_insert_with(ReadPause::begin);
    }

    /// The pause that begins next lasts until the log holds what the server started with.
    pub fn last_until_seeded(&mut self) {
        self.until_seeded = true;
    }

    /// A planned failover begins. Returns whether none had begun before.
    pub fn begin_failover(&mut self) -> bool {
        !std::mem::replace(&mut self.for_failover, true)
    }

    /// The planned failover ends. Returns whether there was one.
    pub fn end_failover(&mut self) -> bool {
        std::mem::take(&mut self.for_failover)
    }

    /// The planned failover has taken place: clients wait until this node can tell them who leads, for as long as they may wait. `slot` was
    /// one of its own, if it had any.
    pub fn last_until_redirected(&mut self, slot: Option<u16>) {
        (self.for_failover, self.until_moved) = (false, slot);
        self.current.iter_mut().for_each(|pause| pause.last(REDIRECT_LIMIT));
    }

    /// Reads from clients again.
    pub fn end(&mut self, gate: Option<&Gate<ServerConnections>>) {
        self.until_seeded = false;
        self.for_failover = false;
        self.until_moved = None;
        if let (Some(pause), Some(gate)) = (self.current.take(), gate) {
            pause.end(&gate.connections);
        }
    }

    /// Whether clients wait.
    pub fn is_active(&self) -> bool {
        self.current.is_some()
    }

    /// Whether clients wait, and have waited long enough.
    pub fn is_over(&self) -> bool {
        self.current.as_ref().is_some_and(ReadPause::is_over)
    }

    /// Whether a planned failover goes on.
    pub fn is_for_failover(&self) -> bool {
        self.for_failover
    }

    /// Whether clients that wait to be told who leads can be told.
    pub fn is_redirected(&self) -> bool {
        let Some((slot, membership)) = self.until_moved.zip(Membership::get()) else { return true };
        membership.is_anothers(slot)
    }

    /// Whether clients still wait to be told who leads.
    pub fn awaits_redirect(&self) -> bool {
        self.is_active() && !self.is_redirected()
    }

    /// Whether clients of a server that has just started wait for the log to hold its data.
    pub fn is_until_seeded(&self) -> bool {
        self.until_seeded
    }
}
