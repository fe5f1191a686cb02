//! A node that follows its log: it serves reads while another one leads, and tries to lead when nobody does.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use durability_leadership::{Decision, Election, Holder, Pacing, Standing, View as Seen};
use valkey_module::logging::{log_notice, log_warning};

use crate::agent::attach::{Candidate, Leadership, LeaseHolder};
use crate::agent::full_copy::CopyWait;
use crate::agent::interrupt::Interrupt;
use crate::agent::{tap, Agent};
use crate::base::process_identity;
use crate::exchange::{lease_clock, Progress, Task};
use crate::lead::lease_keeper::Duty;
use crate::log::control::{LogConnection, LogError};
use crate::log::reply::LogStatus;
use crate::log::shard_view::{LeaseState, View};
use crate::settings::{self, token};

/// How often a long catching-up is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked whether catching up goes on, at least.
const PROGRESS_POLL: Duration = Duration::from_secs(1);
/// The server may have no link to its log for so long before that is an error.
const TIME_WITHOUT_LINK: Duration = Duration::from_secs(5);
/// News that are older say nothing of who leads now.
const NEWS_TIME: Duration = Duration::from_secs(2);
/// After a refusal the next news are waited for, at most so long: they may have been on their way.
const AFTER_REFUSAL: Duration = Duration::from_millis(20);

/// The user name by which the server logs in to the log.
fn replica_user(agent: &Agent, is_whole: bool) -> String {
    let shard = settings::SHARD.value();
    match agent.shared.known() {
        Some(known) => durability_protocol::replica_user(&shard, &known, is_whole),
        None => shard,
    }
}

/// What to tell an operator whose server cannot follow a log that the module reaches at `address`.
fn no_link(address: SocketAddr) -> String {
    let hint = if settings::TLS.is_on() {
        "; by TLS it trusts the CAs in its own tls-ca-cert-file if it has one, so that has to hold the log's as well"
    } else {
        ""
    };
    format!(
        "the server's replication link to the log is not up: it connects to {address}, where this module reaches the log \
         (durability.log {}), and its own log says why that fails{hint}",
        settings::LOG.value()
    )
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

    /// One look, at a log that ends at `end` and that nobody writes to.
    fn is_certain(&mut self, progress: Option<&Progress>, end: u64) -> bool {
        let is_torn =
            progress.is_some_and(|progress| progress.received == end && progress.applied < end && !progress.is_paused);
        let stands_still = progress == self.last.as_ref();
        self.last = progress.cloned();
        self.seen = if is_torn && stands_still { self.seen + 1 } else { 0 };
        self.seen >= Self::LOOKS
    }
}

fn cannot_follow(why: String) -> Interrupt {
    Interrupt::Failed(format!("the server cannot follow the log: {why}"))
}

/// What a node remembers while it follows.
struct Following {
    election: Election,
    tail: TornTail,
    /// Up to where the log went when the node began to follow: from there on it can serve reads.
    first_end: u64,
    serves_reads: bool,
    /// Whether the server was linked to the log, so that all it holds is from there.
    is_whole: bool,
    /// Where the server follows the log.
    address: SocketAddr,
    /// When it last had a link, or was given that address; and whether it has had one.
    linked: Instant,
    was_linked: bool,
    /// Whether the log has no full copy for the server, which waits for one.
    lacks_copy: bool,
    next_look: Instant,
    next_report: Instant,
    /// Who leads, as it was logged last.
    leader: String,
    /// The newest epoch whose leader is known to run nothing newer than this node.
    checked_epoch: u64,
}

impl Candidate {
    /// Follows the log, for as long as others lead, until this node does.
    pub fn follow(mut self, agent: &mut Agent, status: &LogStatus) -> Result<Leadership, Interrupt> {
        // A server connects only to the first address that a name stands for, so it is given the one that was reached.
        let address = self.log.reached()?;
        let &LogStatus { ref leader, ref leader_process, epoch, lease, .. } = status;
        self.check_name_is_its_own(agent, &LeaseHolder { node_id: leader, process: leader_process, epoch, lease })?;
        check_types(agent, status)?;
        agent.grant.compare(status, &self.node_id);
        // What this server holds gives way to what the log holds.
        agent.was_off = false;
        agent.holds_all_of = None;
        // What the server holds gives way only to a log that has all that was durable.
        let (user, password) = (replica_user(agent, false), token::current().map_err(LogError::from)?);
        agent.ask(|reply| Task::Follow { address, user, password, reply })?.map_err(cannot_follow)?;
        // From now on what it holds is judged as the log's.
        agent.gives_way = false;
        agent.shared.set_log_address(address);
        agent.keeper.set(Duty::Follow);
        if let Some(why) = agent.why_it_keeps_no_lease().filter(|_| settings::FAILOVER.is_on()) {
            log_warning(format!("durability: this node follows and never leads: {why}"));
        }
        let now = Instant::now();
        let mut following = Following {
            election: Election::new(),
            tail: TornTail::default(),
            first_end: status.end,
            serves_reads: false,
            is_whole: false,
            address,
            linked: now,
            was_linked: false,
            lacks_copy: false,
            next_look: now,
            next_report: now + PROGRESS_INTERVAL,
            leader: String::new(),
            checked_epoch: status.epoch,
        };
        let mut wait = Duration::ZERO;
        loop {
            agent.wait_for_news(wait)?;
            wait = match self.look(agent, &mut following)? {
                Next::Wait(wait) => wait,
                Next::Acquire(progress) => match self.try_to_lead(agent, &progress)? {
                    Some(leadership) => return Ok(leadership),
                    None => {
                        following.election.refused(lease_clock::now(), &Pacing::default(), random());
                        AFTER_REFUSAL
                    }
                },
                Next::Cut(progress) => return self.cut(agent, &progress),
            };
        }
    }

    /// Looks how far everything is, and decides.
    fn look(&mut self, agent: &mut Agent, following: &mut Following) -> Result<Next, Interrupt> {
        let view = agent.shared.view().filter(|view| view.at.elapsed() < NEWS_TIME);
        if let Some(view) = view.as_ref().filter(|view| view.epoch > following.checked_epoch) {
            self.log = LogConnection::open(&agent.shared)?;
            let status = self.log.status()?;
            self.check_engine(&status)?;
            following.checked_epoch = view.epoch;
        }
        let now = Instant::now();
        let is_open = view.as_ref().is_some_and(|view| !is_led_by_another(view, &self.node_id));
        if !is_open && now < following.next_look && following.serves_reads {
            return Ok(Next::Wait(following.next_look - now));
        }
        following.next_look = now + PROGRESS_POLL;
        let progress = agent.ask(Task::Progress)?;
        following.watch_link(agent, progress.as_ref())?;
        if progress.is_some() && !following.is_whole {
            let user = replica_user(agent, true);
            following.is_whole = agent.ask(|reply| Task::FollowsWhole(user, reply))?;
        }
        let Some(view) = view else { return Ok(Next::Wait(PROGRESS_POLL)) };
        let &View { ref leader, ref leader_process, epoch, lease, .. } = &*view;
        self.check_name_is_its_own(agent, &LeaseHolder { node_id: leader, process: leader_process, epoch, lease })?;
        let own = Own { node_id: &self.node_id, ip: self.log.client_ip() };
        following.report(own, &view, progress.as_ref());
        let left_to_old_leader = view.left_to_old_leader(&self.node_id, Instant::now());
        let standing = Standing {
            node_id: &self.node_id,
            priority: agent.shared.priority(),
            applied: progress.as_ref().map_or(0, |progress| progress.applied),
            is_connected: progress.is_some(),
        };
        let peers = view.peers();
        let seen = seen(&view, own, &peers);
        let decision = following.election.decide(lease_clock::now(), &standing, &seen, &Pacing::default(), random());
        let has_caught_up = standing.is_connected && standing.applied >= following.first_end;
        let wait = match (decision, left_to_old_leader) {
            (Decision::Acquire { .. }, Some(left)) => left.min(PROGRESS_POLL),
            (Decision::Acquire { .. }, None) => {
                return Ok(match progress {
                    Some(progress) => Next::Acquire(progress),
                    None => Next::Wait(PROGRESS_POLL),
                })
            }
            (Decision::CatchUp, None) if following.tail.is_certain(progress.as_ref(), view.end) => {
                return Ok(progress.map_or(Next::Wait(PROGRESS_POLL), Next::Cut));
            }
            // The next news, or what is reported as applied, come first.
            (Decision::CatchUp, _) => {
                agent.report_when_applied(view.end);
                return Ok(Next::Wait(PROGRESS_POLL));
            }
            (Decision::Never, _) => PROGRESS_POLL,
            (Decision::Wait { until }, _) => until.since(lease_clock::now()).min(PROGRESS_POLL),
        };
        if has_caught_up && !following.serves_reads {
            following.serves_reads = true;
            agent.shared.set_last_error("");
            agent.serve_reads();
        } else if !has_caught_up {
            agent.report_when_applied(following.first_end);
        }
        Ok(Next::Wait(wait))
    }

    /// Leads, if the log still is what this node has, and nobody else was faster. `None` if so.
    fn try_to_lead(&mut self, agent: &mut Agent, progress: &Progress) -> Result<Option<Leadership>, Interrupt> {
        let began = Instant::now();
        let Some(epoch) = self.acquire_history(agent, &progress.replid, progress.applied)? else { return Ok(None) };
        let acquired = Instant::now();
        let (replid, offset) = self.promote(agent)?;
        if offset != progress.applied {
            return Err(Interrupt::Failed(format!(
                "the server stands at offset {offset}, not at the log's end {}",
                progress.applied
            )));
        }
        let promoted = Instant::now();
        let (tap, start) = tap::open(agent, Some((&replid, offset)))?;
        let leadership = self.take_tap(epoch, tap, start, Some((replid, offset)))?;
        log_notice(format!(
            "durability: epoch {epoch}: acquired in {} ms, promoted in {} ms, tapped in {} ms",
            (acquired - began).as_millis(),
            (promoted - acquired).as_millis(),
            promoted.elapsed().as_millis()
        ));
        Ok(Some(leadership))
    }
}

/// A server that is given values of a type that it does not know ends.
///
/// # Errors
/// It lacks one of the log's.
fn check_types(agent: &mut Agent, status: &LogStatus) -> Result<(), Interrupt> {
    if status.module_types.is_empty() {
        return Ok(());
    }
    let unknown = agent.ask(|reply| Task::UnknownTypes(status.module_types.clone(), reply))?;
    if unknown.is_empty() {
        return Ok(());
    }
    let (shard, types) = (settings::SHARD.value(), unknown.join(", "));
    let at = status.snapshot_offset.unwrap_or(0);
    Err(Interrupt::Failed(format!(
        "the snapshot of shard {shard} at offset {at} holds values of types that no module of this server knows ({types}): load the module \
         that has them"
    )))
}

/// What to do next.
enum Next {
    /// Wait for news, at most so long.
    Wait(Duration),
    /// Try to lead, from there.
    Acquire(Progress),
    /// Leave out the command in which the log ends, from there.
    Cut(Progress),
}

impl Following {
    /// As a replica the server goes on trying by itself, at the address and with the certificates that it has. Once the keeper has
    /// reached the log at another address, the server is given that. Attaching anew, it gets the certificates that the files hold then.
    /// If it is the log that gives it nothing, it need not attach anew: the log puts off its answer until it can.
    fn watch_link(&mut self, agent: &mut Agent, progress: Option<&Progress>) -> Result<(), Interrupt> {
        let lacks_link = progress.is_none() && agent.ask(Task::LacksLink)?;
        let takes_full_copy = progress.is_none() && !lacks_link;
        if progress.is_some() {
            agent.copy_wait = CopyWait::default();
            if std::mem::take(&mut self.lacks_copy) {
                agent.shared.set_last_error("");
            }
        }
        let reached = agent.shared.log_address().filter(|reached| *reached != self.address && !takes_full_copy);
        if let Some(reached) = reached {
            agent.ask(|reply| Task::FollowAt(reached, reply))?.map_err(cannot_follow)?;
            self.address = reached;
            self.linked = Instant::now();
        } else if !lacks_link {
            self.linked = Instant::now();
            if !std::mem::replace(&mut self.was_linked, true) {
                agent.shared.set_last_error("");
            }
        } else if self.linked.elapsed() < PROGRESS_POLL {
            // It may just connect.
        } else if let Some(why) = agent.why_no_copy() {
            self.lacks_copy = true;
            agent.shared.try_again_after(&why);
            self.linked = Instant::now();
        } else if self.linked.elapsed() > TIME_WITHOUT_LINK {
            return Err(Interrupt::Failed(no_link(self.address)));
        }
        Ok(())
    }

    fn report(&mut self, own: Own<'_>, view: &View, progress: Option<&Progress>) {
        let node_id = own.node_id;
        if self.leader != view.leader {
            self.leader.clone_from(&view.leader);
            if own.leads_elsewhere(view) {
                log_warning(format!(
                    "durability: a process with this node's id '{node_id}' ({}), at {}, leads in epoch {}. If that is this node's \
                     earlier life, its lease passes soon; if not, as in a clone of this machine, give each node a durability.node-id \
                     of its own",
                    view.leader_process, view.leader_address, view.epoch
                ));
            } else if !view.leader.is_empty() {
                log_notice(format!(
                    "durability: {} at {} leads, in epoch {}",
                    view.leader, view.leader_address, view.epoch
                ));
            }
        }
        if !self.serves_reads && Instant::now() > self.next_report {
            self.next_report += PROGRESS_INTERVAL;
            let applied = progress.map_or(0, |progress| progress.applied);
            log_notice(format!("durability: catching up with the log, at offset {applied} of {}", view.end));
        }
    }
}

/// This node: its name, and from where the log service sees it.
#[derive(Clone, Copy)]
struct Own<'a> {
    node_id: &'a str,
    ip: &'a str,
}

impl Own<'_> {
    /// Whether a process of this node's name leads that is not known to be over.
    fn leads_elsewhere(self, view: &View) -> bool {
        view.leader == self.node_id
            && view.lease != LeaseState::Free
            && !process_identity::is_over(&view.leader_process, self.ip)
    }
}

fn is_led_by_another(view: &View, node_id: &str) -> bool {
    view.lease != LeaseState::Free && view.leader != node_id
}

fn seen<'a>(view: &'a View, own: Own<'_>, peers: &'a [durability_leadership::Peer<'a>]) -> Seen<'a> {
    let age = view.at.elapsed();
    Seen {
        answered: lease_clock::before(age),
        holder: match view.lease {
            LeaseState::Free => Holder::Nobody,
            // What its process did is over, or nobody would ever take over from it.
            LeaseState::Held(left)
                if view.leader == own.node_id
                    && (left.is_none() || process_identity::is_over(&view.leader_process, own.ip)) =>
            {
                Holder::EarlierLife
            }
            LeaseState::Held(left) => Holder::Node { node_id: &view.leader, left },
        },
        reserved_for: Some(view.reserved_for.as_str()).filter(|node| !node.is_empty()),
        end: view.end,
        peers,
    }
}

/// A number that nobody can guess, as every hasher of this kind begins with one.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_torn_only_if_all_was_received_and_nothing_moves() {
        let at = |applied, received| Some(Progress { replid: String::new(), applied, received, is_paused: false });
        let mut tail = TornTail::default();
        for progress in [at(5, 8), at(5, 10), at(6, 10), at(6, 10), at(6, 10), None, at(6, 10), at(6, 10), at(6, 10)] {
            assert!(!tail.is_certain(progress.as_ref(), 10), "{progress:?}");
        }
        assert!(tail.is_certain(at(6, 10).as_ref(), 10));
        let mut paused = TornTail::default();
        let held = at(6, 10).map(|progress| Progress { is_paused: true, ..progress });
        for _ in 0..10 {
            assert!(!paused.is_certain(held.as_ref(), 10), "what it received waits for the operator");
        }
        let mut whole = TornTail::default();
        for _ in 0..10 {
            assert!(!whole.is_certain(at(10, 10).as_ref(), 10));
        }
    }
}
