//! How a node comes to lead: it follows the log to its end, takes the lease there, and taps its own stream from the
//! very next byte. A node with data and an empty log seeds the log instead.

use std::time::{Duration, Instant};

use durability_leadership::{Lease, Moment};
use durability_protocol::{Code, EngineVersion, Refusal};
use valkey_module::logging::{log_notice, log_warning};

use crate::agent::grant::Grant;
use crate::agent::interrupt::Interrupt;
use crate::agent::tap::{self, Start, Tap};
use crate::agent::Agent;
use crate::base::time_limit::AtEnd;
use crate::base::{host_name, process_identity};
use crate::decide::known_log::Contradiction;
use crate::decide::unacked::Backlog;
use crate::exchange::server_facts::Facts;
use crate::exchange::{lease_clock, Link, Progress, Task};
use crate::lead::lease_keeper::Duty;
use crate::log::control::{Engine, LogConnection, LogError, LogPosition, Node};
use crate::log::reply::LogStatus;
use crate::log::shard_view::LeaseState;
use crate::settings;

/// How long the log service may take to grant a lease: it waits until what was accepted before is durable.
const ACQUIRE_TIME: Duration = Duration::from_secs(12);

/// What a node holds that leads.
pub struct Leadership {
    /// Its term.
    pub epoch: u64,
    /// The server's replication id in this term.
    pub replid: String,
    /// Its own stream, from the end of `backlog` on.
    pub tap: Tap,
    /// Empty, at the log's end; or where the log's end will be once it is seeded.
    pub backlog: Backlog,
    /// Whether the tap begins with a snapshot, with which the log is still to be seeded.
    pub is_to_seed: bool,
}

/// Comes to lead, however long it takes.
///
/// # Errors
/// Something failed, or something else is to be done first.
pub fn attach(agent: &mut Agent, facts: &Facts) -> Result<Leadership, Interrupt> {
    let started = Instant::now();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    agent.shared.default_address.get_or_init(|| default_address(&host, facts.clients_port()));
    let node_id = agent.shared.node_id.get_or_init(|| match settings::NODE_ID.value() {
        configured if configured.is_empty() => host_name::node_id(&host, facts.clients_port()),
        configured => configured,
    });
    let node_id = node_id.clone();
    let (mut log, held) = agent.open_checked()?;
    agent.shared.remember(|memory, _| memory.attached(log.log_id()));
    agent.shared.set_link(Link::Up);
    let mut status = log.status()?;
    // A node that has seen a leader live waits for it, however that ended.
    if agent.shared.view().is_none() && led_on_another_port(&status, &node_id, &host) {
        log_notice(format!(
            "durability: {} was this node on another port, and is over: releasing its lease",
            status.leader
        ));
        log.resign(status.epoch)?;
        status = log.status()?;
    }
    if let Some(held) = held {
        // The log has all of it, as it said on this connection.
        agent.shared.remember(|memory, _| memory.followed(status.stream_epoch, &status.replid, held));
    }
    log_notice(format!(
        "durability: the log of shard {} ends at offset {}, epoch {}, state {}",
        settings::SHARD.value(),
        status.end,
        status.epoch,
        status.state
    ));
    if let Some(why) = status.why_closed(&settings::SHARD.value()) {
        return Err(Interrupt::Failed(why));
    }
    let engine = Engine { version: facts.engine.clone(), databases: facts.databases };
    let candidate = Candidate { node_id, engine, log };
    candidate.check_engine(&status)?;
    if facts.is_others_replica {
        return Err(Interrupt::Hopeless(
            "this server is a replica of another one: remove replicaof from its configuration and restart it, or set \
             durability.allow-replicaof yes to let it be one"
                .to_owned(),
        ));
    }
    if !status.is_seeded {
        may_be_first(agent)?;
    }
    let leadership = if seeds(agent, facts, &status, candidate.log.log_id())? {
        candidate.seed(agent, facts, status)?
    } else if status.is_seeded || status.end > 0 {
        candidate.follow(agent, &status)?
    } else if status.epoch > 0 && status.leader != candidate.node_id {
        // It has data that the log is to start with, perhaps, and may be in the middle of sending them.
        return Err(Interrupt::Failed(format!(
            "the log is empty, but {} was to lead it in epoch {}: start that node again",
            if status.leader.is_empty() { "a node" } else { &status.leader },
            status.epoch
        )));
    } else {
        candidate.begin(agent, facts, status)?
    };
    log_notice(format!(
        "durability: attached to the log: epoch {}, offset {}, {} ms after connecting to it",
        leadership.epoch,
        leadership.backlog.end(),
        started.elapsed().as_millis()
    ));
    Ok(leadership)
}

/// Whether the lease, which never expires, is that of an earlier life of this node: by default its name has its port in it, and that has
/// changed.
fn led_on_another_port(status: &LogStatus, node_id: &str, host: &str) -> bool {
    settings::NODE_ID.value().is_empty()
        && status.leader != node_id
        && status.lease == LeaseState::Held(None)
        && host_name::is_default(&status.leader, host)
        && process_identity::is_over(&status.leader_process, &status.client_ip)
}

/// Where clients reach this node unless an operator says so: by the name of its machine.
fn default_address(host: &str, port: u16) -> String {
    host_name::address(host, port).unwrap_or_else(|why| {
        if settings::ANNOUNCE.value().is_empty() {
            log_warning(format!("durability: {why}"));
        }
        host_name::node_id(host, port)
    })
}

/// Who finds the log empty begins it, as its leader.
///
/// # Errors
/// This node never leads.
fn may_be_first(agent: &Agent) -> Result<(), Interrupt> {
    if !settings::FAILOVER.is_on() || agent.shared.priority() > 0 {
        return Ok(());
    }
    let why = agent.why_it_keeps_no_lease().unwrap_or_else(|| "its durability.priority is 0".to_owned());
    Err(Interrupt::Failed(format!("the log is empty, and this node leaves it to others to begin it: {why}")))
}

/// Whether the log is to start from this node's data, instead of this node from the log's.
///
/// # Errors
/// Neither is right without an operator's word: others have led, and this node wrote what no log has.
fn seeds(agent: &Agent, facts: &Facts, status: &LogStatus, log_id: &str) -> Result<bool, Interrupt> {
    if !status.is_seeded {
        return Ok(facts.has_data);
    }
    if !agent.was_off {
        return Ok(false);
    }
    if agent.holds_all_of == Some(status.epoch) {
        // Nobody led since this node did: what it did while the module was off comes after the log's end.
        return Ok(true);
    }
    if facts.has_data && !facts.is_as_left {
        return Err(Interrupt::Contradicted(Contradiction::unfollowed(log_id)));
    }
    if facts.has_data {
        log_notice(
            "durability: others have led while durability was off, and nothing was written here: taking the log's data",
        );
    }
    Ok(false)
}

/// Who leads, as the log service says.
pub struct LeaseHolder<'a> {
    /// Its name.
    pub node_id: &'a str,
    /// Which process it is; empty if that is not known.
    pub process: &'a str,
    /// Its term.
    pub epoch: u64,
    /// For how long.
    pub lease: LeaseState,
}

/// A node on its way to lead.
pub struct Candidate {
    /// Its name.
    pub node_id: String,
    /// The server.
    engine: Engine,
    /// For questions to the log.
    pub log: LogConnection,
}

impl Candidate {
    /// A server that is older than the one that wrote the log may not know what it would be sent, and one with fewer databases would
    /// put what it is sent for the others somewhere else.
    ///
    /// # Errors
    /// It is, or has.
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

    fn seed(mut self, agent: &mut Agent, facts: &Facts, status: LogStatus) -> Result<Leadership, Interrupt> {
        let epoch = self.acquire(agent, &LogPosition { end: status.end, replid: None })?;
        // Nothing was written in it yet.
        agent.holds_all_of = Some(epoch);
        if facts.follows_log {
            self.promote(agent)?;
        }
        let (tap, start) = tap::open_anew(agent, None)?;
        match start {
            Start::Snapshot { replid, offset } if offset < status.end => self.rebase(agent, epoch, &tap, &replid),
            start => self.take_tap(epoch, tap, start, None),
        }
    }

    /// The log never goes back, and this node's stream ends before it. So the log takes the node's data as a seed at the
    /// log's own end, and the node takes it from there, offset included. Nobody is served meanwhile.
    fn rebase(mut self, agent: &mut Agent, epoch: u64, tap: &Tap, replid: &str) -> Result<Leadership, Interrupt> {
        let status = self.log.status()?;
        agent.seed(tap, epoch, replid, status.end).map_err(Interrupt::Failed)?;
        let status = self.log.status()?;
        // It is acquired anew from there; until then nobody is kept from anything.
        agent.keeper.set(Duty::Follow);
        lease_clock::put_off();
        self.follow(agent, &status)
    }

    /// Neither the log nor this node holds anything.
    fn begin(mut self, agent: &mut Agent, facts: &Facts, status: LogStatus) -> Result<Leadership, Interrupt> {
        let Some((replid, offset)) = agent.ask(|reply| Task::StartStream(status.end, reply))? else {
            // Its stream has begun long ago, so the log goes on from where that is.
            return self.seed(agent, facts, status);
        };
        let epoch = self.acquire(agent, &LogPosition { end: offset, replid: None })?;
        let (tap, start) = tap::open(agent, Some((&replid, offset)))?;
        self.take_tap(epoch, tap, start, Some((replid, offset)))
    }

    /// Takes the lease at `position`; it is kept from then on. An earlier life of this node that is over needs none any more.
    ///
    /// # Errors
    /// The log is not reached, or refuses.
    pub fn acquire(&mut self, agent: &mut Agent, position: &LogPosition<'_>) -> Result<u64, LogError> {
        let length = settings::lease();
        let (mut sent, mut acquired) = self.ask_for_lease(agent, position, length);
        if matches!(&acquired, Err(LogError::Refused(refusal)) if refusal.code == Code::Leased) {
            let status = self.log.status()?;
            if status.leader == self.node_id && process_identity::is_over(&status.leader_process, &status.client_ip) {
                log_notice(format!(
                    "durability: this node's earlier life leads in epoch {}, and is over ({}, connected from where this node is): \
                     releasing its lease",
                    status.epoch, status.leader_process
                ));
                self.log.resign(status.epoch)?;
                agent.grant = Grant::None;
                (sent, acquired) = self.ask_for_lease(agent, position, length);
            }
        }
        let epoch = acquired?;
        agent.last_led = Some(epoch);
        let granted = Lease::acquired(sent, length);
        lease_clock::begin(granted.valid_until());
        agent.keeper.set(Duty::Lead { epoch, lease: granted });
        log_notice(format!("durability: acquired the lease in epoch {epoch} at offset {}", position.end));
        Ok(epoch)
    }

    /// Answers when it was asked as well.
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
        // Until it is answered: whatever ends this node first finds that the lease may be its own.
        let before = std::mem::replace(&mut agent.grant, Grant::Unknown(Instant::now()));
        let acquired = self.log.acquire(&node, position, length, &self.engine);
        match &acquired {
            Ok(epoch) => agent.grant = Grant::Epoch(*epoch),
            Err(LogError::Refused(_)) => agent.grant = before,
            Err(_) => {}
        }
        (sent, acquired)
    }

    /// Takes the lease at `end` if the log still is the history of `replid` up to there, and nobody else was faster: `None` if so.
    /// The offset alone does not tell this node's history from one that another leader has begun.
    ///
    /// # Errors
    /// The log is not reached, or refuses for another reason.
    pub fn acquire_history(&mut self, agent: &mut Agent, replid: &str, end: u64) -> Result<Option<u64>, Interrupt> {
        self.log = LogConnection::open_within(&agent.shared, ACQUIRE_TIME, AtEnd::BreaksOff)?;
        let status = self.log.status()?;
        if status.end != end || status.replid != replid {
            return Ok(None);
        }
        // Compared once more, by the log service itself: this node may have stood still since it asked.
        let epoch = match self.acquire(agent, &LogPosition { end, replid: Some(replid) }) {
            Ok(epoch) => epoch,
            Err(LogError::Refused(refusal)) if matches!(refusal.code, Code::Gap | Code::Leased) => return Ok(None),
            // Another node contradicts the log.
            Err(error @ LogError::Refused(Refusal { code: Code::OtherLog, .. })) => {
                agent.shared.try_again_after(&error.to_string());
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        if epoch != status.epoch + 1 {
            // Somebody led in between, and may have begun another history.
            return Err(Interrupt::Failed(format!("epoch {epoch} does not follow epoch {}", status.epoch)));
        }
        Ok(Some(epoch))
    }

    /// Makes the server a primary. Answers where its stream stands, under which replication id.
    ///
    /// # Errors
    /// The server refuses, or something else is to be done first.
    pub fn promote(&self, agent: &mut Agent) -> Result<(String, u64), Interrupt> {
        agent.ask(Task::Promote)?.map_err(|why| Interrupt::Failed(format!("the server cannot become a primary: {why}")))
    }

    /// The log ends inside a command, or inside a transaction: its leader died while a large one was on its way. Nothing of
    /// it was ever acknowledged, as replies wait for whole groups. No replica can apply it, so the log starts anew from a
    /// snapshot of what stands before it.
    pub fn cut(mut self, agent: &mut Agent, progress: &Progress) -> Result<Leadership, Interrupt> {
        let end = progress.received;
        log_warning(format!(
            "durability: the log ends at offset {end} inside a command that was never acknowledged; leaving that command out"
        ));
        let Some(epoch) = self.acquire_history(agent, &progress.replid, end)? else {
            return Err(Interrupt::Failed("the log is another than a moment ago".to_owned()));
        };
        self.promote(agent)?;
        // The log never goes back, so this node's stream has to come after what is left out.
        agent.ask(|reply| Task::Advance(end, reply))?.map_err(Interrupt::Failed)?;
        let (tap, start) = tap::open_anew(agent, None)?;
        self.take_tap(epoch, tap, start, None)
    }

    /// The stream goes on in the log where the tap starts.
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
        let (replid, offset, is_to_seed) = match (start, position) {
            (Start::Continue, Some((replid, offset))) => {
                self.log.begin(epoch, &replid, offset)?;
                (replid, offset, false)
            }
            (Start::Continue, None) => {
                return Err(Interrupt::Failed("the server continues a stream that nobody asked for".to_owned()))
            }
            (Start::Snapshot { replid, offset }, _) => (replid, offset, true),
        };
        Ok(Leadership { epoch, replid, tap, backlog: Backlog::new(offset), is_to_seed })
    }

    /// Of a holder whose lease never expires: two nodes of one name would take it from each other for ever. A later epoch that this very
    /// process leads without knowing it is one of which it never got the answer.
    ///
    /// # Errors
    /// This node's name leads in a later epoch than this node did.
    pub fn check_name_is_its_own(&self, agent: &Agent, holder: &LeaseHolder<'_>) -> Result<(), Interrupt> {
        let Some(last) = agent.last_led else { return Ok(()) };
        if holder.lease != LeaseState::Held(None) || holder.node_id != self.node_id || holder.epoch <= last {
            return Ok(());
        }
        // Asked for anew on another way to the log, it is seen elsewhere. Nobody's lease is freed for this.
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
