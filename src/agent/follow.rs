//! A node that follows its log: it serves reads while another node leads, and tries to lead when no node does. Agent's thread.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use durability_leadership::{Decision, Election, Holder, Pacing, Peer, Standing, View as Seen};
use valkey_module::logging::{log_notice, log_warning};

use crate::agent::acquire::{Candidate, Leadership, LeaseHolder};
use crate::agent::broken_stream::BrokenStream;
use crate::agent::interrupt::Interrupt;
use crate::agent::membership::Membership;
use crate::agent::replica_link::{cannot_follow, replica_user, ReplicaLink};
use crate::agent::state::Agent;
use crate::agent::tap;
use crate::agent::torn_tail::TornTail;
use crate::base::process_identity;
use crate::exchange::lease_clock;
use crate::exchange::mailbox::{Progress, Task};
use crate::lead::keeper_state::Duty;
use crate::log::control::LogConnection;
use crate::log::error::LogError;
use crate::log::reply::LogStatus;
use crate::log::shard_view::{LeaseState, ShardView};
use crate::settings::{self, token};

/// How often a long catching-up is logged.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// How often at least to check the server's progress.
const PROGRESS_POLL: Duration = Duration::from_secs(1);
/// Older news say nothing of who leads now.
const NEWS_TIME: Duration = Duration::from_secs(2);
/// How long at most to wait for the next news after the log refused the lease. They may have been on their way.
const AFTER_REFUSAL: Duration = Duration::from_millis(20);

/// What a node remembers while it follows.
struct Following {
    election: Election,
    tail: TornTail,
    link: ReplicaLink,
    broken: BrokenStream,
    /// The log's end (exclusive) when the node began to follow: once it has applied that, it can serve reads.
    first_end: u64,
    serves_reads: bool,
    next_look: Instant,
    next_report: Instant,
    /// The leader that was logged last.
    leader: String,
    /// The newest epoch whose leader is known to run nothing newer than this node.
    checked_epoch: u64,
    membership: Membership,
}

/// What to do next.
enum Next {
    /// Wait for news, at most this long.
    Wait(Duration),
    /// Try to lead, from there.
    Acquire(Progress),
    /// Leave out the command in which the log ends, from there.
    Cut(Progress),
}

impl Candidate {
    /// Follows the log while other nodes lead, until this one does.
    ///
    /// # Errors
    /// Something failed, or something else is to be done first.
    pub fn follow(mut self, agent: &mut Agent, status: &LogStatus) -> Result<Leadership, Interrupt> {
        let mut following = self.begin_to_follow(agent, status)?;
        let mut wait = Duration::ZERO;
        loop {
            agent.control.wait_for_news(wait)?;
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

    /// Makes the server a replica of the log.
    fn begin_to_follow(&mut self, agent: &mut Agent, status: &LogStatus) -> Result<Following, Interrupt> {
        // A server connects only to the first address of a name, so it is given the one that the module reached.
        let at = self.log.reached()?;
        let &LogStatus { ref leader, ref leader_process, epoch, lease, .. } = status;
        self.check_name_is_its_own(agent, &LeaseHolder { node_id: leader, process: leader_process, epoch, lease })?;
        check_types(agent, status)?;
        agent.grant.compare(status, &self.node_id);
        // What this server holds gives way to what the log holds.
        agent.was_off = false;
        agent.holds_all_of = None;
        // The log refuses this login if it lacks anything that was durable: the server's data gives way only to a log that has all of it.
        let (user, password) = (replica_user(&agent.shared, false), token::current().map_err(LogError::from)?);
        let knows_slots = status.config_epoch > 0 || status.has_slots;
        let follow = |reply| Task::Follow { at: at.clone(), user, password, knows_slots, reply };
        agent.control.ask(follow)?.map_err(cannot_follow)?;
        // From now on, what the server holds counts as the log's.
        agent.gives_way = false;
        agent.shared.set_log_address(at.clone());
        agent.keeper.set(Duty::Follow);
        if let Some(why) = agent.why_it_keeps_no_lease().filter(|_| settings::FAILOVER.is_on()) {
            log_warning(format!("durability: this node follows and never leads: {why}"));
        }
        let now = Instant::now();
        Ok(Following {
            election: Election::new(),
            tail: TornTail::default(),
            link: ReplicaLink::new(at),
            broken: BrokenStream::default(),
            first_end: status.end,
            serves_reads: false,
            next_look: now,
            next_report: now + PROGRESS_INTERVAL,
            leader: String::new(),
            checked_epoch: status.epoch,
            membership: Membership::default(),
        })
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
        let progress = agent.control.ask(Task::Progress)?;
        let goes_on = |progress: &Progress| progress.applied == progress.received || progress.is_paused;
        if progress.as_ref().is_some_and(goes_on) {
            following.broken.goes_on();
        } else {
            following.broken.look(agent, &self.engine.version)?;
        }
        following.link.watch(agent, progress.as_ref(), view.as_ref().map(|view| view.end))?;
        if let Some(view) = view.as_ref().filter(|view| is_led_by_another(view, &self.node_id)) {
            following.membership.look(agent, view)?;
        }
        match view {
            Some(view) => self.decide(agent, following, &view, progress),
            None => Ok(Next::Wait(PROGRESS_POLL)),
        }
    }

    fn decide(
        &self,
        agent: &mut Agent,
        following: &mut Following,
        view: &Arc<ShardView>,
        progress: Option<Progress>,
    ) -> Result<Next, Interrupt> {
        let &ShardView { ref leader, ref leader_process, epoch, lease, .. } = &**view;
        self.check_name_is_its_own(agent, &LeaseHolder { node_id: leader, process: leader_process, epoch, lease })?;
        let own = Own { node_id: &self.node_id, ip: self.log.client_ip() };
        following.report(own, view, progress.as_ref());
        let left_to_old_leader = view.left_to_old_leader(&self.node_id, Instant::now());
        let standing = Standing {
            node_id: &self.node_id,
            priority: agent.shared.priority(),
            applied: progress.as_ref().map_or(0, |progress| progress.applied),
            is_connected: progress.is_some(),
        };
        let peers = view.peers();
        let seen = seen(view, own, &peers);
        let decision = following.election.decide(lease_clock::now(), &standing, &seen, &Pacing::default(), random());
        let has_caught_up = standing.is_connected && standing.applied >= following.first_end;
        let wait = match (decision, left_to_old_leader) {
            (Decision::Acquire { .. }, Some(left)) => left.min(PROGRESS_POLL),
            (Decision::Acquire { .. }, None) => {
                return Ok(progress.map_or(Next::Wait(PROGRESS_POLL), Next::Acquire));
            }
            (Decision::CatchUp, None) if following.tail.is_certain(progress.as_ref(), view.end) => {
                return Ok(progress.map_or(Next::Wait(PROGRESS_POLL), Next::Cut));
            }
            // The next news, or the main thread's report, end the wait earlier.
            (Decision::CatchUp, _) => {
                agent.control.report_when_applied(view.end);
                return Ok(Next::Wait(PROGRESS_POLL));
            }
            (Decision::Never, _) => PROGRESS_POLL,
            (Decision::Wait { until }, _) => until.since(lease_clock::now()).min(PROGRESS_POLL),
        };
        if has_caught_up && !following.serves_reads {
            following.serves_reads = true;
            agent.shared.set_last_error("");
            agent.control.serve_reads();
        } else if !has_caught_up {
            agent.control.report_when_applied(following.first_end);
        }
        Ok(Next::Wait(wait))
    }

    /// Leads, if the log still is what this node has. `None` if it is not, or if another node was faster.
    fn try_to_lead(&mut self, agent: &mut Agent, progress: &Progress) -> Result<Option<Leadership>, Interrupt> {
        let began = Instant::now();
        let Some(epoch) = self.acquire_history(agent, &progress.replid, progress.applied)? else { return Ok(None) };
        let acquired = Instant::now();
        let (replid, offset) = self.promote(agent, epoch)?;
        if offset != progress.applied {
            return Err(Interrupt::Failed(format!(
                "the server stands at offset {offset}, not at the log's end {}",
                progress.applied
            )));
        }
        let promoted = Instant::now();
        let (tap, start) = tap::open(&mut agent.control, Some((&replid, offset)))?;
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

/// Checks that the server knows the types of all values in the log. A server that receives a value of an unknown type exits.
///
/// # Errors
/// The server does not know one of the types.
fn check_types(agent: &mut Agent, status: &LogStatus) -> Result<(), Interrupt> {
    if status.module_types.is_empty() {
        return Ok(());
    }
    let unknown = agent.control.ask(|reply| Task::UnknownTypes(status.module_types.clone(), reply))?;
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

impl Following {
    fn report(&mut self, own: Own<'_>, view: &ShardView, progress: Option<&Progress>) {
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

/// This node's name, and the IP address from which the log service sees it.
#[derive(Clone, Copy)]
struct Own<'a> {
    node_id: &'a str,
    ip: &'a str,
}

impl Own<'_> {
    /// Whether a process with this node's name leads, and is not known to have ended.
    fn leads_elsewhere(self, view: &ShardView) -> bool {
        view.leader == self.node_id
            && view.lease != LeaseState::Free
            && !process_identity::is_over(&view.leader_process, self.ip)
    }
}

fn is_led_by_another(view: &ShardView, node_id: &str) -> bool {
    view.lease != LeaseState::Free && view.leader != node_id
}

fn seen<'a>(view: &'a ShardView, own: Own<'_>, peers: &'a [Peer<'a>]) -> Seen<'a> {
    let age = view.at.elapsed();
    Seen {
        answered: lease_clock::before(age),
        holder: match view.lease {
            LeaseState::Free => Holder::Nobody,
            // A lease that never expires, or a process that has ended, would otherwise keep this node from leading for ever.
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

/// An unpredictable number: every hasher of this kind begins with one.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
