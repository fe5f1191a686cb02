//! How a node comes to lead: it follows the log to its end, takes the lease there, and taps its own stream from the
//! very next byte. A node with data and an empty log seeds the log instead.

use std::time::{Duration, Instant};

use durability_protocol::{Code, EngineVersion};
use valkey_module::logging::{log_notice, log_warning};

use crate::agent::{Agent, Interrupt};
use crate::backlog::Backlog;
use crate::config;
use crate::log_connection::{self, LogConnection, LogError};
use crate::log_reply::LogStatus;
use crate::shared::{Facts, Link, Progress, Task};
use crate::start::default_node_id;
use crate::tap::{self, Address, Start, Tap};

/// How often the log is asked again while another node leads.
const LEASE_POLL: Duration = Duration::from_millis(500);
/// How often a long catching-up is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// How often it is looked whether catching up goes on.
const PROGRESS_POLL: Duration = Duration::from_secs(1);

/// So many looks, a [`PROGRESS_POLL`] apart, the server may have no link to its log before that is an error.
const LOOKS_WITHOUT_LINK: u32 = 5;

/// What to tell an operator whose server cannot follow a log that the agent is connected to.
fn no_link() -> String {
    let hint = if config::TLS.is_on() {
        "; by TLS it trusts the CAs in its own tls-ca-cert-file if it has one, so that has to hold the log's as well"
    } else {
        ""
    };
    format!("the server's replication link to the log is not up: the server's log says why{hint}")
}

/// Finds out that a log ends inside a command: everything was received, and what was applied stands still before the end.
#[derive(Default)]
struct TornTail {
    last: Option<Progress>,
    seen: u32,
}

impl TornTail {
    /// A replica applies what it received within one turn of its event loop, but for a command that takes long; while
    /// one does, nobody can ask. So standing still for several looks is certain.
    const LOOKS: u32 = 3;

    /// One look, at a log that ends at `end`.
    fn is_certain(&mut self, progress: Option<Progress>, end: u64) -> bool {
        let is_torn = progress.is_some_and(|progress| progress.received == end && progress.applied < end);
        let stands_still = progress == self.last;
        self.last = progress;
        self.seen = if is_torn && stands_still { self.seen + 1 } else { 0 };
        self.seen >= Self::LOOKS
    }
}

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
pub fn attach(agent: &mut Agent, facts: &Facts, address: &Address) -> Result<Leadership, Interrupt> {
    let started = Instant::now();
    let node = default_node_id(facts.port);
    let node_id = agent.shared.node_id.get_or_init(|| match config::NODE_ID.value() {
        configured if configured.is_empty() => node.clone(),
        configured => configured,
    });
    let node_id = node_id.clone();
    let mut log = LogConnection::open()?;
    agent.shared.set_link(Link::Up);
    let status = log.status()?;
    log_notice(format!(
        "durability: the log of shard {} ends at offset {}, epoch {}, state {}",
        config::SHARD.value(),
        status.end,
        status.epoch,
        status.state
    ));
    if let (Ok(engine), Ok(writer)) = (facts.engine.parse(), status.engine.parse()) {
        check_engine(engine, writer)?;
    }
    let candidate = Candidate { node_id, node, engine: facts.engine.clone(), log, address };
    if facts.is_others_replica {
        return Err(Interrupt::Hopeless(
            "this server is a replica of another one: remove replicaof from its configuration and restart it, or set \
             durability.allow-replicaof yes to let it be one"
                .to_owned(),
        ));
    }
    let leadership = if seeds(agent, facts, &status)? {
        candidate.seed(agent, status)?
    } else if status.is_seeded || status.end > 0 {
        candidate.follow(agent, status)?
    } else {
        candidate.begin(agent, status)?
    };
    log_notice(format!(
        "durability: attached to the log in {} ms: epoch {}, offset {}",
        started.elapsed().as_millis(),
        leadership.epoch,
        leadership.backlog.end()
    ));
    Ok(leadership)
}

/// Whether the log is to start from this node's data, instead of this node from the log's.
fn seeds(agent: &Agent, facts: &Facts, status: &LogStatus) -> Result<bool, Interrupt> {
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
    if !facts.has_data {
        return Ok(false);
    }
    Err(Interrupt::Hopeless(format!(
        "the log of shard {} holds data that this node did not follow while durability was off. To take the log's data \
         and discard this node's, restart the server with durability.mode sync or async; to keep this node's data, \
         restart it with a new durability.shard",
        config::SHARD.value()
    )))
}

/// A server that is older than the one that wrote the log may not know what it would be sent.
fn check_engine(engine: EngineVersion, writer: EngineVersion) -> Result<(), Interrupt> {
    engine.check_reads(writer).map_err(|refusal| Interrupt::Hopeless(refusal.detail))
}

/// A node on its way to lead.
struct Candidate<'a> {
    node_id: String,
    node: String,
    /// The server's version.
    engine: String,
    log: LogConnection,
    address: &'a Address,
}

impl Candidate<'_> {
    fn seed(mut self, agent: &mut Agent, status: LogStatus) -> Result<Leadership, Interrupt> {
        let epoch = self.acquire(agent, status.end)?;
        // Nothing was written in it yet.
        agent.holds_all_of = Some(epoch);
        let (tap, start) = tap::open(agent, self.address, None)?;
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
        self.follow(agent, status)
    }

    /// Neither the log nor this node holds anything.
    fn begin(mut self, agent: &mut Agent, status: LogStatus) -> Result<Leadership, Interrupt> {
        let Some((replid, offset)) = agent.ask(|reply| Task::StartStream(status.end, reply))? else {
            // Its stream has begun long ago, so the log goes on from where that is.
            return self.seed(agent, status);
        };
        let epoch = self.acquire(agent, offset)?;
        let (tap, start) = tap::open(agent, self.address, Some((&replid, offset)))?;
        self.take_tap(epoch, tap, start, Some((replid, offset)))
    }

    fn acquire(&mut self, agent: &mut Agent, end: u64) -> Result<u64, LogError> {
        let epoch = self.log.acquire(&self.node_id, &self.node, end, &self.engine)?;
        agent.last_led = Some(epoch);
        log_notice(format!("durability: acquired the lease in epoch {epoch} at offset {end}"));
        Ok(epoch)
    }

    fn follow(mut self, agent: &mut Agent, mut status: LogStatus) -> Result<Leadership, Interrupt> {
        let (host, port) = config::parse_address(&config::LOG.value()).map_err(Interrupt::Hopeless)?;
        self.check_name_is_its_own(agent, &status)?;
        // What this server holds gives way to what the log holds.
        agent.was_off = false;
        agent.holds_all_of = None;
        let (user, password) = (config::SHARD.value(), log_connection::password());
        agent
            .ask(|reply| Task::Follow { host, port, user, password, reply })?
            .map_err(|why| Interrupt::Failed(format!("the server cannot follow the log: {why}")))?;
        let mut waits_for = None;
        let mut tail = TornTail::default();
        let mut without_link = 0;
        let mut next_report = Instant::now() + PROGRESS_INTERVAL;
        let (epoch, end) = loop {
            let Some(applied) = agent.wait_until_applied(status.end, PROGRESS_POLL)? else {
                let progress = agent.ask(Task::Progress)?;
                let lacks_link = progress.is_none() && agent.ask(Task::LacksLink)?;
                without_link = if lacks_link { without_link + 1 } else { 0 };
                if without_link >= LOOKS_WITHOUT_LINK {
                    // As a replica it goes on trying by itself, with the certificates that it has. Attaching anew, it gets
                    // those that the files hold then.
                    return Err(Interrupt::Failed(no_link()));
                }
                if tail.is_certain(progress, status.end) {
                    return self.cut(agent, &status);
                }
                if Instant::now() > next_report {
                    next_report += PROGRESS_INTERVAL;
                    let applied = progress.map_or(0, |progress| progress.applied);
                    let end = status.end;
                    log_notice(format!("durability: catching up with the log, at offset {applied} of {end}"));
                }
                status = self.log.status()?;
                continue;
            };
            match self.acquire(agent, applied) {
                Ok(epoch) => break (epoch, applied),
                Err(LogError::Refused(refusal)) if refusal.code == Code::Gap => {}
                Err(LogError::Refused(refusal)) if refusal.code == Code::Leased => {
                    if waits_for.as_ref() != Some(&status.leader) {
                        log_warning(format!("durability: another node leads, waiting: {}", refusal.detail));
                        agent.shared.set_last_error(&refusal.to_string());
                        waits_for = Some(status.leader.clone());
                    }
                    agent.pause(LEASE_POLL)?;
                }
                Err(error) => return Err(error.into()),
            }
            status = self.log.status()?;
            self.check_name_is_its_own(agent, &status)?;
        };
        let (replid, offset) = self.promote(agent)?;
        if offset != end {
            return Err(Interrupt::Failed(format!("the server stands at offset {offset}, not at the log's end {end}")));
        }
        let (tap, start) = tap::open(agent, self.address, Some((&replid, end)))?;
        self.take_tap(epoch, tap, start, Some((replid, end)))
    }

    fn promote(&self, agent: &mut Agent) -> Result<(String, u64), Interrupt> {
        agent.ask(Task::Promote)?.map_err(|why| Interrupt::Failed(format!("the server cannot become a primary: {why}")))
    }

    /// The log ends inside a command, or inside a transaction: its leader died while a large one was on its way. Nothing of
    /// it was ever acknowledged, as replies wait for whole groups. No replica can apply it, so the log starts anew from a
    /// snapshot of what stands before it.
    fn cut(mut self, agent: &mut Agent, status: &LogStatus) -> Result<Leadership, Interrupt> {
        log_warning(format!(
            "durability: the log ends at offset {} inside a command that was never acknowledged; leaving that command out",
            status.end
        ));
        let epoch = self.acquire(agent, status.end)?;
        self.promote(agent)?;
        // The log never goes back, so this node's stream has to come after what is left out.
        agent.ask(|reply| Task::Advance(status.end, reply))?.map_err(Interrupt::Failed)?;
        let (tap, start) = tap::open(agent, self.address, None)?;
        self.take_tap(epoch, tap, start, None)
    }

    /// The stream goes on in the log where the tap starts.
    fn take_tap(
        mut self,
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

    /// A node takes over from its own earlier life at once. Two nodes of one name would do that to each other for ever.
    fn check_name_is_its_own(&self, agent: &Agent, status: &LogStatus) -> Result<(), Interrupt> {
        let Some(last) = agent.last_led else { return Ok(()) };
        if status.leader != self.node_id || status.epoch <= last {
            return Ok(());
        }
        Err(Interrupt::Failed(format!(
            "another node leads under this node's id '{}': give each node a durability.node-id of its own, then restart \
             this one",
            self.node_id
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_torn_only_if_all_was_received_and_nothing_moves() {
        let at = |applied, received| Some(Progress { applied, received });
        let mut tail = TornTail::default();
        for progress in [at(5, 8), at(5, 10), at(6, 10), at(6, 10), at(6, 10), None, at(6, 10), at(6, 10), at(6, 10)] {
            assert!(!tail.is_certain(progress, 10), "{progress:?}");
        }
        assert!(tail.is_certain(at(6, 10), 10));
        let mut whole = TornTail::default();
        for _ in 0..10 {
            assert!(!whole.is_certain(at(10, 10), 10));
        }
    }
}
