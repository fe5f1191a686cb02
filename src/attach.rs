//! How a node comes to lead: it follows the log to its end, takes the lease there, and taps its own stream from the
//! very next byte. A node with data and an empty log seeds the log instead.

use std::time::{Duration, Instant};

use durability_protocol::Code;
use valkey_module::logging::{log_notice, log_warning};

use crate::agent::{Agent, Interrupt};
use crate::backlog::Backlog;
use crate::config;
use crate::log_connection::{self, LogConnection, LogError, LogStatus};
use crate::seed;
use crate::shared::{Facts, Link, Task};
use crate::start::default_node_id;
use crate::tap::{self, Address, Start, Tap};

/// How often the log is asked again while another node leads.
const LEASE_POLL: Duration = Duration::from_millis(500);
/// How often a long catching-up is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// What a node holds that leads.
pub struct Leadership {
    /// Its term.
    pub epoch: u64,
    /// The server's replication id in this term.
    pub replid: String,
    /// Its own stream, from the end of `backlog` on.
    pub tap: Tap,
    /// Empty, at the log's end.
    pub backlog: Backlog,
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
    let candidate = Candidate { node_id, node, log, address };
    let leadership =
        if seeds(agent, facts, &status)? { candidate.seed(agent, status)? } else { candidate.follow(agent, status)? };
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
    if !agent.was_off || !facts.has_data {
        return Ok(false);
    }
    if agent.last_led == Some(status.epoch) {
        // Nobody led since this node did: what it wrote while the module was off comes after the log's end.
        return Ok(true);
    }
    Err(Interrupt::Hopeless(format!(
        "the log of shard {} holds data that this node did not follow while durability was off. To take the log's data \
         and discard this node's, restart the server with durability.mode sync or async; to keep this node's data, \
         restart it with a new durability.shard",
        config::SHARD.value()
    )))
}

/// A node on its way to lead.
struct Candidate<'a> {
    node_id: String,
    node: String,
    log: LogConnection,
    address: &'a Address,
}

impl Candidate<'_> {
    fn seed(mut self, agent: &mut Agent, status: LogStatus) -> Result<Leadership, Interrupt> {
        let epoch = self.log.acquire(&self.node_id, &self.node, status.end)?;
        let (tap, start) = tap::open(agent, self.address, None)?;
        self.take_tap(agent, epoch, tap, start, None)
    }

    fn follow(mut self, agent: &mut Agent, mut status: LogStatus) -> Result<Leadership, Interrupt> {
        let (host, port) = config::parse_address(&config::LOG.value()).map_err(Interrupt::Hopeless)?;
        let mut waits_for = None;
        let (epoch, end) = loop {
            self.check_name_is_its_own(agent, &status)?;
            let (host, user, password) = (host.clone(), config::SHARD.value(), log_connection::password());
            agent
                .ask(|reply| Task::Follow { host, port, user, password, reply })?
                .map_err(|why| Interrupt::Failed(format!("the server cannot follow the log: {why}")))?;
            let Some(applied) = agent.wait_until_applied(status.end, PROGRESS_INTERVAL)? else {
                log_notice(format!("durability: still catching up with the log, to offset {}", status.end));
                status = self.log.status()?;
                continue;
            };
            match self.log.acquire(&self.node_id, &self.node, applied) {
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
        };
        log_notice(format!("durability: acquired the lease in epoch {epoch} at offset {end}"));
        let (replid, offset) = agent
            .ask(Task::Promote)?
            .map_err(|why| Interrupt::Failed(format!("the server cannot become a primary: {why}")))?;
        if offset != end {
            return Err(Interrupt::Failed(format!("the server stands at offset {offset}, not at the log's end {end}")));
        }
        let (tap, start) = tap::open(agent, self.address, Some((&replid, end)))?;
        self.take_tap(agent, epoch, tap, start, Some((replid, end)))
    }

    /// The stream goes on in the log where the tap starts.
    fn take_tap(
        mut self,
        agent: &Agent,
        epoch: u64,
        tap: Tap,
        start: Start,
        position: Option<(String, u64)>,
    ) -> Result<Leadership, Interrupt> {
        let (replid, offset) = match (start, position) {
            (Start::Continue, Some((replid, offset))) => {
                self.log.begin(epoch, &replid, offset)?;
                (replid, offset)
            }
            (Start::Continue, None) => {
                return Err(Interrupt::Failed("the server continues a stream that nobody asked for".to_owned()))
            }
            (Start::Snapshot { replid, offset, bytes }, _) => {
                let status = self.log.status()?;
                seed::send(&tap.stream, &status, epoch, &replid, offset, bytes)?;
                agent.shared.seeds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                (replid, offset)
            }
        };
        Ok(Leadership { epoch, replid, tap, backlog: Backlog::new(offset) })
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
