//! What is searched, within which bounds, and for what.

use stateright::{Model, Property};

use crate::log_leader::LogLeader;
use crate::time::{Ticks, LEASE_TICKS};
use crate::world::{Action, World};

/// How much may happen. Everything may happen at any time, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Time, in ticks.
    pub ticks: u8,
    /// Requests for the lease, after the first one.
    pub acquires: u8,
    /// Renewals.
    pub renewals: u8,
    /// Writes.
    pub writes: u8,
    /// Reads.
    pub reads: u8,
    /// Messages that arrive twice.
    pub duplicates: u8,
    /// Nodes that die and come back.
    pub restarts: u8,
    /// Log services that do.
    pub service_restarts: u8,
    /// Whether several log services keep the log, of which one decides over it.
    pub is_replicated: bool,
    /// How often another one of them is elected, and the one before does not learn of it.
    pub elections: u8,
    /// Whether nodes go by what a deposed log service tells them of the lease.
    pub has_stale_views: bool,
    /// Length of the first lease; all others are of [`LEASE_TICKS`].
    pub first_lease: Ticks,
    /// Leaders that hand over.
    pub releases: u8,
    /// Operators that take the lease from a leader.
    pub revocations: u8,
    /// Whether clocks run apart.
    pub is_drifting: bool,
}

/// The rules, each of which a check takes away.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The log service grants the lease to another node only when it has passed.
    pub waits_for_lease: bool,
    /// And a margin.
    pub waits_for_margin: bool,
    /// After it was started anew it counts a whole lease.
    pub counts_anew_after_restart: bool,
    /// As one that is elected to decide over the log does.
    pub counts_anew_after_election: bool,
    /// It answers a renewal only after a quorum has confirmed that it decides.
    pub confirms_renewals: bool,
    /// In a round that began after the renewal had come.
    pub confirms_after_receipt: bool,
    /// It answers who asks for the lease, or gives it back, only after that is committed.
    pub commits_grants: bool,
    /// It answers a renewal that changes the lease's length only after that is committed.
    pub commits_lengths: bool,
    /// It acknowledges only what is committed.
    pub commits_appends: bool,
    /// It refuses appends of epochs that are over.
    pub fences_appends: bool,
    /// A leader looks at its lease before each reply.
    pub checks_lease: bool,
    /// The lease counts from when its request was sent, not from when the answer came.
    pub counts_from_sending: bool,
    /// Who acquires has everything that is in the log.
    pub acquires_at_end: bool,
    /// A node takes the lease only by the answer to its last request for it.
    pub takes_last_answer: bool,
    /// Who stops leading never sends what it had computed.
    pub closes_clients: bool,
    /// Who hands over stops answering before it says so.
    pub gives_up_before_release: bool,
    /// A lease that an operator takes away is granted to nobody else before its holder has stopped answering, or it has passed.
    pub waits_for_resignation: bool,
    /// A lease is waited for also by a process that goes by the name of who holds it.
    pub waits_for_own_name: bool,
    /// No two nodes go by the same name. Not a rule that anything depends on.
    pub names_differ: bool,
}

impl Rules {
    /// As they are.
    pub const ALL: Rules = Rules {
        waits_for_lease: true,
        waits_for_margin: true,
        counts_anew_after_restart: true,
        counts_anew_after_election: true,
        confirms_renewals: true,
        confirms_after_receipt: true,
        commits_grants: true,
        commits_lengths: true,
        commits_appends: true,
        fences_appends: true,
        checks_lease: true,
        counts_from_sending: true,
        acquires_at_end: true,
        takes_last_answer: true,
        closes_clients: true,
        gives_up_before_release: true,
        waits_for_resignation: true,
        waits_for_own_name: true,
        names_differ: true,
    };

    /// Whether a service that was deposed does more than to answer renewals that a quorum had confirmed before.
    pub fn deposed_decides(&self) -> bool {
        !(self.confirms_renewals && self.confirms_after_receipt && self.commits_grants && self.commits_appends)
    }
}

/// Two nodes and the log service of one shard, or those of its log services that believe to decide over the log.
#[derive(Debug, Clone, Copy)]
pub struct Shard {
    /// How much may happen.
    pub bounds: Bounds,
    /// The rules.
    pub rules: Rules,
}

/// At most one node answers at any time.
pub const ONE_ANSWERS: &str = "at most one node answers";
/// What was acknowledged is in the log.
pub const IN_LOG: &str = "what was acknowledged is in the log";
/// Who may answer holds what was acknowledged before.
pub const LEADER_HAS_ALL: &str = "a leader holds what was acknowledged";
/// Who may answer holds what a follower showed.
pub const LEADER_HAS_SHOWN: &str = "a leader holds what followers showed";
/// Reads are not stale.
pub const READS_FRESH: &str = "a read shows what was acknowledged before it";
/// The search gets so far that both nodes acknowledge.
pub const BOTH: &str = "a second leader acknowledges";
/// The search gets so far that another node leads.
pub const SECOND: &str = "a second node leads";
/// The search gets so far that a log service grants a renewal that does not decide any more.
pub const LATE_RENEWAL: &str = "a deposed log service grants a renewal";

impl Model for Shard {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.bounds, &self.rules)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.step(action, &self.rules).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn leaders<'a>(shard: &'a Shard, world: &'a World) -> impl Iterator<Item = &'a [u8]> {
            let may_answer = world.nodes.iter().filter(|node| node.may_answer(&shard.rules));
            may_answer.map(|node| node.data.as_slice())
        }
        let mut properties = vec![
            Property::always(ONE_ANSWERS, |shard, world| leaders(shard, world).count() < 2),
            Property::always(IN_LOG, |_, world: &World| {
                !world.seen.is_forked && world.elected.ledger.log.starts_with(&world.seen.acknowledged)
            }),
            Property::always(LEADER_HAS_ALL, |shard, world| {
                leaders(shard, world).all(|data| data.starts_with(&world.seen.acknowledged))
            }),
            Property::always(LEADER_HAS_SHOWN, |shard, world| {
                leaders(shard, world).all(|data| data.starts_with(&world.seen.followed))
            }),
            Property::always(READS_FRESH, |_, world: &World| !world.seen.is_stale),
            Property::sometimes(SECOND, |shard: &Shard, world: &World| world.nodes[1].may_answer(&shard.rules)),
        ];
        let Bounds { writes, renewals, elections, first_lease, .. } = self.bounds;
        if writes > 1 {
            properties.push(Property::sometimes(BOTH, |_, world: &World| world.seen.by == [true, true]));
        }
        // A renewal for another length is committed, so no round is waited for.
        if elections > 0 && renewals > u8::from(first_lease != LEASE_TICKS) {
            properties.push(Property::sometimes(LATE_RENEWAL, |_, world: &World| {
                world.deposed.as_ref().is_some_and(LogLeader::is_confirming)
            }));
        }
        properties
    }
}
