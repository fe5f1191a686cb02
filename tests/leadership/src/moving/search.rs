//! What is searched, within which bounds, and for what.

use stateright::{Model, Property};

use super::leader::{Leader, Phase, Standing};
use super::message::{other, ConfigEpoch, Process, ShardId};
use super::world::{Action, World};

/// Migrations at the most.
pub const JOBS: usize = 2;

/// How much may happen. Everything may happen at any time, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Migrations, from whichever shard has the slot.
    pub moves: u8,
    /// Leaders that follow others, of each shard.
    pub leads: [u8; 2],
    /// Writes.
    pub writes: u8,
    /// Requests that are sent once more.
    pub resends: u8,
    /// Config epochs that are raised by the bus.
    pub raises: u8,
    /// Imports that fail.
    pub failures: u8,
    /// Leases that pass, and may be renewed in the same epoch.
    pub suspensions: u8,
    /// Planned failovers that begin, and may be given up.
    pub handovers: u8,
    /// The config epochs with which the shards begin.
    pub config_epochs: [ConfigEpoch; 2],
}

/// The rules, each of which a check takes away.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A log service takes a change only of the leader of the newest epoch.
    pub fences_changes: bool,
    /// A grant as well.
    pub fences_grants: bool,
    /// It takes no change that was sent before one that it has taken, whichever command it is.
    pub orders_changes: bool,
    /// Slots that a claim has taken from the shard do not come back by what its leader sets, but for an import that this ends.
    pub keeps_given: bool,
    /// A claim needs a grant.
    pub claims_what_is_granted: bool,
    /// A claim that comes again is answered as before, and takes nothing.
    pub claims_once: bool,
    /// A job that was aborted is not granted afterwards, whether or not there was a grant.
    pub remembers_aborted: bool,
    /// The write that adds a claimed slot ends its intent.
    pub ends_intent_with_slots: bool,
    /// A new leader of the source aborts the grants that it finds, before it serves.
    pub aborts_before_serving: bool,
    /// A new leader of the target finds out what became of the intents that it finds.
    pub settles_intents: bool,
    /// It aborts the job at the source, so that nobody claims it later, and does not only ask.
    pub settles_by_abort: bool,
    /// The source's leader tells the target that it has granted when the grant is stored.
    pub tells_after_grant: bool,
    /// It answers nobody from when it sends the grant, not from when it is told that this is stored.
    pub refuses_from_sending: bool,
    /// Until it knows what became of it, though the server's pause has ended.
    pub refuses_until_decided: bool,
    /// It makes something only of an answer that it waits for.
    pub takes_awaited_answers: bool,
    /// The target's leader tells that it is ready when its log has everything.
    pub logs_before_claim: bool,
    /// It stores the intent before it claims.
    pub intends_before_claim: bool,
    /// What was imported is not deleted while the claim is not answered, nor by a new leader before it has found out.
    pub keeps_imports: bool,
    /// Its new config epoch is above the source's as it was when the slot was claimed.
    pub claims_above_source: bool,
    /// It stores the slot and the config epoch before it tells of them and serves.
    pub stores_before_telling: bool,
    /// A source's leader whose lease passed and was renewed aborts what it has granted, and answers nobody until it knows the decision.
    pub asks_when_resumed: bool,
    /// A target's leader whose lease passes keeps what it was asking, and asks it again when the lease is renewed.
    pub remembers_imports: bool,
    /// A leader that serves again deletes no keys of slots of an import that is not settled.
    pub keeps_keys_of_imports: bool,
    /// A planned failover, which forgets what moves, does not begin while something is being decided.
    pub decides_before_handover: bool,
}

impl Rules {
    /// As they are.
    pub const ALL: Rules = Rules {
        fences_changes: true,
        fences_grants: true,
        orders_changes: true,
        keeps_given: true,
        claims_what_is_granted: true,
        claims_once: true,
        remembers_aborted: true,
        ends_intent_with_slots: true,
        aborts_before_serving: true,
        settles_intents: true,
        settles_by_abort: true,
        tells_after_grant: true,
        refuses_from_sending: true,
        refuses_until_decided: true,
        takes_awaited_answers: true,
        logs_before_claim: true,
        intends_before_claim: true,
        keeps_imports: true,
        claims_above_source: true,
        stores_before_telling: true,
        asks_when_resumed: true,
        remembers_imports: true,
        keeps_keys_of_imports: true,
        decides_before_handover: true,
    };
}

/// Two shards and a slot that moves between them.
#[derive(Debug, Clone, Copy)]
pub struct Moving {
    /// How much may happen.
    pub bounds: Bounds,
    /// The rules.
    pub rules: Rules,
}

/// No two shards have the slot stored as theirs.
pub const ONE_OWNER: &str = "at most one shard has the slot";
/// The slot is one shard's, or one is to take it that has claimed it.
pub const NOT_LOST: &str = "the slot is a shard's, or claimed and about to be";
/// At most one node answers for the slot.
pub const ONE_ANSWERS: &str = "at most one node answers for the slot";
/// Nobody answers for a slot that is granted, or another's.
pub const OWNER_ANSWERS: &str = "who answers has the slot, and has not granted it";
/// Who answers has everything that was acknowledged.
pub const HAS_ALL: &str = "who answers for the slot has what was acknowledged";
/// Nobody has told the cluster a greater config epoch for the slot, or the same.
pub const GREATEST: &str = "who answers for the slot has told the greatest config epoch of it";
/// The search gets so far that the other shard serves the slot.
pub const MOVES: &str = "the slot moves";
/// The search gets so far that another leader of the target takes what the one before has claimed.
pub const SUCCESSOR_TAKES: &str = "another leader of the target takes the slot";
/// The search gets so far that the slot is back where it was.
pub const COMES_BACK: &str = "the slot comes back";
/// The search gets so far that another leader of the source aborts a grant, and serves.
pub const SUCCESSOR_ABORTS: &str = "another leader of the source goes on with the slot";
/// The search gets so far that the source's leader is suspended when the slot is claimed.
pub const SOURCE_SUSPENDED: &str = "the source is suspended when the slot is claimed";
/// The search gets so far that the target's leader is.
pub const TARGET_SUSPENDED: &str = "the target is suspended when the slot is claimed";
/// The search gets so far that a planned failover ends a migration by which keys came.
pub const HANDOVER_ENDS: &str = "a planned failover ends a migration";

impl Model for Moving {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.bounds)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(&self.rules, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.step(action, &self.rules).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ONE_OWNER, |_, world: &World| !world.records.iter().all(|record| record.has_slot)),
            Property::always(NOT_LOST, |_, world: &World| {
                world.records.iter().any(|record| record.has_slot)
                    || (0..2).any(|shard| is_being_taken_from(world, shard))
            }),
            Property::always(ONE_ANSWERS, |moving: &Moving, world: &World| world.answering(&moving.rules).count() < 2),
            Property::always(OWNER_ANSWERS, |moving: &Moving, world: &World| {
                let mut records = world.answering(&moving.rules).map(|leader| world.record(leader));
                records.all(|record| record.has_slot && record.grant.is_none())
            }),
            Property::always(HAS_ALL, |moving: &Moving, world: &World| {
                world.answering(&moving.rules).all(|leader| world.shown(leader) == world.acknowledged)
            }),
            Property::always(GREATEST, |moving: &Moving, world: &World| {
                world.answering(&moving.rules).all(|leader| leader.process == world.told.1)
            }),
            Property::sometimes(MOVES, |moving: &Moving, world: &World| {
                world.answering(&moving.rules).any(|leader| leader.process.shard == 1)
            }),
        ];
        let Bounds { leads: [sources, targets], moves, suspensions, handovers, .. } = self.bounds;
        if suspensions > 0 {
            properties.push(Property::sometimes(SOURCE_SUSPENDED, |_, world: &World| is_suspended(world, 0)));
            properties.push(Property::sometimes(TARGET_SUSPENDED, |_, world: &World| is_suspended(world, 1)));
        }
        if handovers > 0 {
            properties.push(Property::sometimes(HANDOVER_ENDS, |_, world: &World| {
                let ends = |leader: &Leader| leader.standing == Standing::HandsOver && leader.unlogged.is_some();
                world.leaders.iter().any(ends)
            }));
        }
        if targets > 0 {
            properties.push(Property::sometimes(SUCCESSOR_TAKES, |_, world: &World| {
                let second = world.leaders.iter().find(|leader| leader.process == Process { shard: 1, epoch: 2 });
                second.is_some_and(|leader| matches!(leader.phase, Phase::Claiming { ends: Some(_), .. }))
            }));
        }
        if sources > 0 {
            properties.push(Property::sometimes(SUCCESSOR_ABORTS, |moving: &Moving, world: &World| {
                let is_second = |leader: &Leader| leader.process == Process { shard: 0, epoch: 2 };
                let has_aborted = |leader: &Leader| world.record(leader).has_aborted_any();
                world.answering(&moving.rules).any(|leader| is_second(leader) && has_aborted(leader))
            }));
        }
        if moves > 1 {
            properties.push(Property::sometimes(COMES_BACK, |moving: &Moving, world: &World| {
                let was_given = world.records.iter().all(|record| record.given.iter().any(Option::is_some));
                was_given && world.answering(&moving.rules).any(|leader| leader.process.shard == 0)
            }));
        }
        properties
    }
}

/// Whether that shard's leader is suspended, and by its record and the other's the slot has been claimed and nobody has it yet.
fn is_suspended(world: &World, shard: ShardId) -> bool {
    let is_suspended = |leader: &Leader| leader.standing == Standing::Suspended && leader.phase != Phase::Idle;
    let mut leaders = world.leaders.iter().filter(|leader| leader.process.shard == shard && world.leads(leader));
    world.records.iter().all(|record| !record.has_slot) && leaders.any(is_suspended)
}

/// Whether the other shard has claimed the slot from `shard`, and has a leader that is to take it: it has the intent, and is not done.
fn is_being_taken_from(world: &World, shard: ShardId) -> bool {
    let target = other(shard);
    let intent = world.records[usize::from(target)].intent;
    let is_claimed = intent.is_some_and(|job| world.records[usize::from(shard)].has_given(job));
    let mut takers = world.leaders.iter().filter(|leader| leader.process.shard == target && world.leads(leader));
    is_claimed && takers.all(|leader| leader.phase != Phase::Idle)
}
