//! How a node attaches to its log and comes to lead. A node with data and an empty log starts the log from its data. With a log that holds
//! anything, it follows the log to its end. Agent's thread.

use std::time::Instant;

use valkey_module::logging::{log_notice, log_warning};

use crate::agent::acquire::{Candidate, Leadership};
use crate::agent::initial_snapshot;
use crate::agent::interrupt::Interrupt;
use crate::agent::state::Agent;
use crate::agent::tap::{self, Start, Tap};
use crate::base::{host_name, process_identity};
use crate::decide::known_log::Contradiction;
use crate::exchange::lease_clock;
use crate::exchange::mailbox::Task;
use crate::exchange::server_facts::ServerFacts;
use crate::lead::keeper_state::Duty;
use crate::log::control::LogConnection;
use crate::log::control_commands::{Engine, LogPosition};
use crate::log::reply::LogStatus;
use crate::log::shard_view::LeaseState;
use crate::settings;

/// Comes to lead, however long it takes.
///
/// # Errors
/// Something failed, or something else is to be done first.
pub fn attach(agent: &mut Agent, facts: &ServerFacts) -> Result<Leadership, Interrupt> {
    let started = Instant::now();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let node_id = name_node(agent, &host, facts.clients_port());
    let (mut log, held) = agent.open_checked()?;
    agent.shared.remember(|memory, _| memory.attached(log.log_id()));
    agent.shared.link.answered(agent.shared.services.in_use());
    let mut status = log.status()?;
    // A node that has seen a leader alive waits for it, however its lease ended.
    if agent.shared.view().is_none() && led_on_another_port(&status, &node_id, &host) {
        log_notice(format!(
            "durability: {} was this node on another port, and is over: releasing its lease",
            status.leader
        ));
        log.resign(status.epoch)?;
        status = log.status()?;
    }
    if let Some(held) = held {
        // The log has all of it, as its answer on this connection says.
        agent.shared.remember(|memory, _| memory.followed(status.stream_epoch, &status.replid, held));
    }
    log_notice(format!(
        "durability: the log of shard {} ends at offset {}, epoch {}, state {}",
        settings::SHARD.value(),
        status.end,
        status.epoch,
        status.state
    ));
    let leadership = attach_to(agent, facts, node_id, log, status)?;
    log_notice(format!(
        "durability: attached to the log: epoch {}, offset {}, {} ms after connecting to it",
        leadership.epoch,
        leadership.backlog.end(),
        started.elapsed().as_millis()
    ));
    Ok(leadership)
}

/// Chooses one of the ways to lead.
fn attach_to(
    agent: &mut Agent,
    facts: &ServerFacts,
    node_id: String,
    log: LogConnection,
    status: LogStatus,
) -> Result<Leadership, Interrupt> {
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
    if !status.has_begun {
        may_be_first(agent)?;
        if let Some(primary) = &facts.cluster_primary {
            // That one may have more than this one.
            return Err(Interrupt::Failed(format!(
                "the log is empty, and this node is a replica of {primary} in its cluster: that node is to begin the log, so start it with \
                 this module and the same durability.shard. If it is gone for good, remove nodes.conf here, restart, and CLUSTER MEET"
            )));
        }
    }
    if gives_log_its_data(agent, facts, &status, candidate.log.log_id())? {
        candidate.start_log_from_own_data(agent, facts, status)
    } else if status.has_begun || status.end > 0 {
        candidate.follow(agent, &status)
    } else if status.epoch > 0 && status.leader != candidate.node_id {
        // That node may have data from which the log is to start, and may be sending it.
        Err(Interrupt::Failed(format!(
            "the log is empty, but {} was to lead it in epoch {}: start that node again",
            if status.leader.is_empty() { "a node" } else { &status.leader },
            status.epoch
        )))
    } else {
        candidate.begin(agent, facts, status)
    }
}

/// Fixes this node's name and default address the first time. Returns the name.
fn name_node(agent: &Agent, host: &str, clients_port: u16) -> String {
    agent.shared.default_address.get_or_init(|| default_address(host, clients_port));
    let node_id = agent.shared.node_id.get_or_init(|| match settings::NODE_ID.value() {
        configured if configured.is_empty() => host_name::node_id(host, clients_port),
        configured => configured,
    });
    node_id.clone()
}

/// Where clients reach this node unless an operator configures another address: the name of its machine.
fn default_address(host: &str, port: u16) -> String {
    host_name::address(host, port).unwrap_or_else(|why| {
        if settings::ANNOUNCE.value().is_empty() {
            log_warning(format!("durability: {why}"));
        }
        host_name::node_id(host, port)
    })
}

/// Whether the lease, which never expires, belongs to an earlier process of this node on another port. The default name contains the port,
/// so that process led under another name.
fn led_on_another_port(status: &LogStatus, node_id: &str, host: &str) -> bool {
    settings::NODE_ID.value().is_empty()
        && status.leader != node_id
        && status.lease == LeaseState::Held(None)
        && host_name::is_default(&status.leader, host)
        && process_identity::is_over(&status.leader_process, &status.client_ip)
}

/// Checks that this node may begin an empty log, as its leader.
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

/// Whether the log is to start from this node's data. If not, this node takes the log's data.
///
/// # Errors
/// Only an operator can decide: other nodes have led, and this node wrote what no log has.
fn gives_log_its_data(agent: &Agent, facts: &ServerFacts, status: &LogStatus, log_id: &str) -> Result<bool, Interrupt> {
    if !status.has_begun {
        return Ok(facts.has_data);
    }
    if !agent.was_off {
        return Ok(false);
    }
    if agent.holds_all_of == Some(status.epoch) {
        // No other node has led since this one did, so what it wrote while the module was off comes after the log's end.
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

impl Candidate {
    fn start_log_from_own_data(
        mut self,
        agent: &mut Agent,
        facts: &ServerFacts,
        status: LogStatus,
    ) -> Result<Leadership, Interrupt> {
        let epoch = self.acquire(agent, &LogPosition { end: status.end, replid: None, seen: status.epoch })?;
        // Nothing has been written in this epoch yet.
        agent.holds_all_of = Some(epoch);
        if facts.follows_log {
            self.promote(agent, epoch)?;
        } else {
            self.take_slots(agent, epoch)?;
        }
        let (tap, start) = tap::open_anew(&mut agent.control, None)?;
        match start {
            Start::Snapshot { replid, offset } if offset < status.end => self.rebase(agent, epoch, &tap, &replid),
            start => self.take_tap(epoch, tap, start, None),
        }
    }

    /// The log never goes back, and this node's stream ends before the log's end. So the log starts anew from the node's data at the log's
    /// own end, and the node takes the data from the log, offset included. Nobody is served meanwhile.
    fn rebase(mut self, agent: &mut Agent, epoch: u64, tap: &Tap, replid: &str) -> Result<Leadership, Interrupt> {
        let status = self.log.status()?;
        initial_snapshot::start_log(&agent.shared, tap, epoch, replid, status.end).map_err(Interrupt::Failed)?;
        let status = self.log.status()?;
        // The node acquires the lease again from there. Until then this node holds up no candidate.
        agent.keeper.set(Duty::Follow);
        lease_clock::put_off();
        self.follow(agent, &status)
    }

    /// Neither the log nor this node holds anything.
    fn begin(mut self, agent: &mut Agent, facts: &ServerFacts, status: LogStatus) -> Result<Leadership, Interrupt> {
        let Some((replid, offset)) = agent.control.ask(|reply| Task::StartStream(status.end, reply))? else {
            // The server's stream began long ago, so the log continues where that stands.
            return self.start_log_from_own_data(agent, facts, status);
        };
        let epoch = self.acquire(agent, &LogPosition { end: offset, replid: None, seen: status.epoch })?;
        self.take_slots(agent, epoch)?;
        let (tap, start) = tap::open(&mut agent.control, Some((&replid, offset)))?;
        self.take_tap(epoch, tap, start, Some((replid, offset)))
    }
}
