//! A node on its way to lead: it takes the lease at the end of the log, makes its server a primary, and taps its own stream from the very
//! next byte. Agent's thread.

use std::time::{Duration, Instant};

use durability_leadership::{Lease, Moment};
use durability_protocol::{Code, EngineVersion};
use valkey_module::logging::{log_notice, log_warning};

use crate::agent::grant::Grant;
use crate::agent::interrupt::Interrupt;
use crate::agent::slot_intentions;
use crate::agent::state::Agent;
use crate::agent::tap::{self, Start, Tap};
use crate::base::process_identity;
use crate::base::time_limit::AtEnd;
use crate::decide::cluster_claim::Claim;
use crate::decide::unacked::Backlog;
use crate::exchange::lease_clock;
use crate::exchange::mailbox::{Progress, Task};
use crate::lead::keeper_state::Duty;
use crate::log::control::LogConnection;
use crate::log::control_commands::{Engine, LogPosition};
use crate::log::error::LogError;
use crate::log::local_node::Node;
use crate::log::reply::LogStatus;
use crate::log::shard_view::LeaseState;
use crate::settings;

/// How long the log service may take to grant a lease: it waits until what it accepted before is durable.
const ACQUIRE_TIME: Duration = Duration::from_secs(12);

/// What a leader holds.
pub struct Leadership {
    /// Its epoch.
    pub epoch: u64,
    /// The server's replication id in this epoch.
    pub replid: String,
    /// Its own stream, from the end of `backlog` on.
    pub tap: Tap,
    /// Empty, at the log's end; or where the log's end will be once it holds the initial snapshot.
    pub backlog: Backlog,
    /// Whether the tap begins with a snapshot from which the log is still to be started.
    pub begins_with_snapshot: bool,
}

/// The leader according to the log service.
pub struct LeaseHolder<'a> {
    /// Its name.
    pub node_id: &'a str,
    /// Its process; empty if that is not known.
    pub process: &'a str,
    /// Its epoch.
    pub epoch: u64,
    /// How long its lease lasts.
    pub lease: LeaseState,
}

/// A node on its way to lead.
pub struct Candidate {
    /// Its name.
    pub node_id: String,
    /// The server.
    pub engine: Engine,
    /// For questions to the log.
    pub log: LogConnection,
}

impl Candidate {
    /// Checks that this server can take what the log holds. An older server than the one that wrote the log may not understand it, and a
    /// server with fewer databases would put what belongs into the others somewhere else.
    ///
    /// # Errors
    /// The server is older, or has fewer databases.
    pub fn check_engine(&self, status: &LogStatus) -> Result<(), Interrupt> {
        let (own, needed) = (self.engine.databases, status.databases);
        if (1..needed).contains(&own) {
            return Err(Interrupt::Hopeless(format!(
                "this server has databases {own}, but the log of shard {} was written with databases {needed}: set databases {needed} \
                 in valkey.conf and restart it",
                settings::SHARD.value()
            )));
        }
        match (self.engine.version.parse::<EngineVersion>(), status.engine.parse()) {
            (Ok(engine), Ok(writer)) => {
                engine.check_reads(writer).map_err(|refusal| Interrupt::Hopeless(refusal.detail))
            }
            _ => Ok(()),
        }
    }

    /// Takes the lease at `position`, and keeps it from then on. Releases the lease of an earlier process of this node that has ended.
    ///
    /// # Errors
    /// The log cannot be reached, or refuses.
    pub fn acquire(&mut self, agent: &mut Agent, position: &LogPosition<'_>) -> Result<u64, LogError> {
        let length = settings::lease();
        let (mut sent, mut acquired) = self.ask_for_lease(agent, position, length);
        if matches!(&acquired, Err(error) if error.code() == Some(Code::Leased)) {
            let status = self.log.status()?;
            if status.leader == self.node_id && process_identity::is_over(&status.leader_process, &status.client_ip) {
                log_notice(format!(
                    "durability: this node's earlier life leads in epoch {}, and is over ({}, connected from where this node is): \
                     releasing its lease",
                    status.epoch, status.leader_process
                ));
                self.log.resign(status.epoch)?;
                agent.grant = Grant::None;
                (sent, acquired) = self.ask_for_lease(agent, &LogPosition { seen: status.epoch, ..*position }, length);
            }
        }
        let epoch = acquired?;
        agent.control.last_led = Some(epoch);
        let granted = Lease::acquired(sent, length);
        lease_clock::begin(granted.valid_until());
        agent.keeper.set(Duty::Lead { epoch, lease: granted });
        log_notice(format!("durability: acquired the lease in epoch {epoch} at offset {}", position.end));
        Ok(epoch)
    }

    /// Returns the time of the request, and its result.
    fn ask_for_lease(
        &mut self,
        agent: &mut Agent,
        position: &LogPosition<'_>,
        length: Duration,
    ) -> (Moment, Result<u64, LogError>) {
        let address = agent.shared.address();
        let node = Node { id: &self.node_id, address: &address };
        let sent = lease_clock::now();
        if let Err(error) = self.log.may_ask() {
            return (sent, Err(error));
        }
        // Until the answer comes, whatever ends this node has to assume that the lease may be granted.
        let before = std::mem::replace(&mut agent.grant, Grant::Unknown(Instant::now()));
        let acquired = self.log.acquire(&node, position, length, &self.engine);
        match &acquired {
            Ok(epoch) => agent.grant = Grant::Epoch(*epoch),
            Err(LogError::Refused { .. }) => agent.grant = before,
            Err(_) => {}
        }
        (sent, acquired)
    }

    /// Takes the lease at `end` (exclusive), if the log still is the history of `replid` up to there. Returns the epoch; `None` if it is
    /// not, or if another node was faster. The offset alone does not distinguish this node's history from one that another leader began.
    ///
    /// # Errors
    /// The log cannot be reached, or refuses for another reason.
    pub fn acquire_history(&mut self, agent: &mut Agent, replid: &str, end: u64) -> Result<Option<u64>, Interrupt> {
        self.log = match LogConnection::open_within(&agent.shared, ACQUIRE_TIME, AtEnd::BreaksOff) {
            // No service decides for the moment, so nobody can lead.
            Err(error) if error.is_not_leader() => return Ok(None),
            opened => opened?,
        };
        let status = self.log.status()?;
        if status.end != end || status.replid != replid {
            return Ok(None);
        }
        // The log service compares once more: this node may have stood still since its question.
        let epoch = match self.acquire(agent, &LogPosition { end, replid: Some(replid), seen: status.epoch }) {
            Ok(epoch) => epoch,
            Err(error) if matches!(error.code(), Some(Code::Gap | Code::Leased | Code::NotLeader)) => return Ok(None),
            // The log contradicts another node.
            Err(error) if error.code() == Some(Code::OtherLog) => {
                agent.shared.try_again_after(&error.to_string());
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        if epoch != status.epoch + 1 {
            // Another node led in between, and may have begun another history.
            return Err(Interrupt::Failed(format!("epoch {epoch} does not follow epoch {}", status.epoch)));
        }
        Ok(Some(epoch))
    }

    /// Makes the server a primary, and in a cluster that of the shard. `epoch` is this node's. Returns its replication id, and where its
    /// stream stands (exclusive).
    ///
    /// # Errors
    /// The server refuses, or something else is to be done first.
    pub fn promote(&mut self, agent: &mut Agent, epoch: u64) -> Result<(String, u64), Interrupt> {
        let claim = self.store_claim(agent, epoch)?;
        let promoted = agent.control.ask(|reply| Task::Promote(claim, reply))?;
        promoted.map_err(|why| Interrupt::Failed(format!("the server cannot become a primary: {why}")))
    }

    /// In a cluster: has the log store what this node is about to claim as the leader of `epoch`. None outside of cluster mode.
    ///
    /// # Errors
    /// The log cannot be reached, or refuses; or something else is to be done first.
    fn store_claim(&mut self, agent: &mut Agent, epoch: u64) -> Result<Option<Claim>, Interrupt> {
        if !agent.control.support.is_cluster {
            return Ok(None);
        }
        let mut stored = self.log.claim(epoch)?;
        if !stored.intentions.is_empty() {
            slot_intentions::settle(&agent.shared, epoch, &stored)?;
            stored = self.log.claim(epoch)?;
        }
        let claim = agent.control.ask(|reply| Task::PlanClaim(stored, reply))?.map_err(Interrupt::Failed)?;
        if claim.config_epoch > 0 {
            self.log.store_claim(epoch, &claim, lease_clock::now())?;
        }
        Ok(Some(claim))
    }

    /// As [`Candidate::promote`], for a server that replicates from nobody: in a cluster it becomes the shard's primary.
    ///
    /// # Errors
    /// As [`Candidate::promote`].
    pub fn take_slots(&mut self, agent: &mut Agent, epoch: u64) -> Result<(), Interrupt> {
        let Some(claim) = self.store_claim(agent, epoch)? else { return Ok(()) };
        let taken = agent.control.ask(|reply| Task::TakeClaim(claim, reply))?;
        taken.map_err(|why| Interrupt::Failed(format!("the server cannot become the shard's primary: {why}")))
    }

    /// Leads a log that ends inside a command or a transaction, because its leader died while a large one was on its way. Replies wait for
    /// whole groups, so nothing of it was ever acknowledged. No replica can apply it, so the log starts anew from a snapshot of what stands
    /// before it.
    ///
    /// # Errors
    /// The log is not the same any more, or something else is to be done first.
    pub fn cut(mut self, agent: &mut Agent, progress: &Progress) -> Result<Leadership, Interrupt> {
        let end = progress.received;
        log_warning(format!(
            "durability: the log ends at offset {end} inside a command that was never acknowledged; leaving that command out"
        ));
        let Some(epoch) = self.acquire_history(agent, &progress.replid, end)? else {
            return Err(Interrupt::Failed("the log is another than a moment ago".to_owned()));
        };
        self.promote(agent, epoch)?;
        // The log never goes back, so this node's stream has to continue behind what is left out.
        agent.control.ask(|reply| Task::Advance(end, reply))?.map_err(Interrupt::Failed)?;
        let (tap, start) = tap::open_anew(&mut agent.control, None)?;
        self.take_tap(epoch, tap, start, None)
    }

    /// Leads: the stream goes on in the log where the tap starts. `position` is what the tap was asked for.
    ///
    /// # Errors
    /// The log refuses, or the server continues another stream.
    pub fn take_tap(
        &mut self,
        epoch: u64,
        tap: Tap,
        start: Start,
        position: Option<(String, u64)>,
    ) -> Result<Leadership, Interrupt> {
        let (replid, offset, begins_with_snapshot) = match (start, position) {
            (Start::Continue, Some((replid, offset))) => {
                self.log.begin(epoch, &replid, offset)?;
                (replid, offset, false)
            }
            (Start::Continue, None) => {
                return Err(Interrupt::Failed("the server continues a stream that nobody asked for".to_owned()))
            }
            (Start::Snapshot { replid, offset }, _) => (replid, offset, true),
        };
        Ok(Leadership { epoch, replid, tap, backlog: Backlog::new(offset), begins_with_snapshot })
    }

    /// Checks that no other node leads under this node's name with a lease that never expires: two such nodes would take it from each other
    /// for ever. If this very process leads in a later epoch without knowing it, it never received the answer to its request.
    ///
    /// # Errors
    /// This node's name leads in a later epoch than this node did.
    pub fn check_name_is_its_own(&self, agent: &Agent, holder: &LeaseHolder<'_>) -> Result<(), Interrupt> {
        let Some(last) = agent.control.last_led else { return Ok(()) };
        if holder.lease != LeaseState::Held(None) || holder.node_id != self.node_id || holder.epoch <= last {
            return Ok(());
        }
        // A process that asked again on another way to the log is seen at another address. No lease is freed because of this.
        let was_not_answered =
            matches!(agent.grant, Grant::Unknown(_)) && process_identity::is_own_anywhere(holder.process);
        if was_not_answered || process_identity::is_own(holder.process, self.log.client_ip()) {
            return Ok(());
        }
        Err(Interrupt::Failed(format!(
            "another node leads under this node's id '{}': give each node a durability.node-id of its own, then restart \
             this one",
            self.node_id
        )))
    }
}
