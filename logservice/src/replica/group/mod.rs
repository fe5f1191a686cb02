//! One copy of a group's log: what it knows, and what is to be done next. Plain logic: no thread, clock, socket or file, so that a
//! simulation can drive it.
//!
//! Whoever has a [`Group`] tells it what happens (messages, ticks, what is persisted, what is to be proposed), and then does what
//! [`Group::work`] says. Votes, terms, commit and changes of members are the consensus crate's.
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | a copy's life: what happens to it, and what it does then |
//! | `persisting.rs`, `applying.rs` | what is handed to the disk, and what is done with entries that are committed |
//! | `leading.rs` | what is proposed and confirmed while its service decides over the log |
//! | `acknowledged.rs` | what is acknowledged before this copy's own disk has it |
//! | `machine.rs` | what committed entries add up to |
//! | `marks.rs` | running checksums, to be compared with other services' |
//! | `lost.rs` | a copy that has lost what it acknowledged, or that has no space |
//! | `heard.rs` | which members were heard a moment ago |
//! | `held_back.rs` | a copy that does not ask for votes, and gives its own |
//! | `entries.rs` | entries, as the consensus crate reads them |
//! | `telling.rs` | what the others are told earlier or later than the consensus crate would |
//! | `fetching.rs` | old entries, for members that are behind or to be applied, which another thread reads |
//! | `install.rs` | what a member gets that lacks entries that are gone |
//! | `members.rs` | changes of the members |
//! | `forcing.rs` | a copy that goes on without the others |
//! | `told.rs` | what a group tells its service |
//! | `rule_switches.rs` | for tests: which rule is taken out |
//!
//! # Rules
//!
//! 1. A message that may only leave when something is persisted waits until the disk has said so, and until the consensus crate has been
//!    told ([`Group::persisted`]): an answer must not come back before that.
//! 2. The service of a copy decides over the log ([`Event::Leads`]) from when an entry of its own term is applied: all that is or ever will
//!    be committed of earlier terms lies before that entry.
//! 3. What is proposed continues the log's end with all that is not committed yet, in the epoch that writes then. So each entry can be
//!    applied if it is ever committed, and one that cannot is a fault of this program or a damaged copy: the group stops here.
//! 4. Between a base that is installed and its being persisted, nothing else happens to the group.
//! 5. A copy that is no member any more stops ([`Work::is_removed`]).

mod acknowledged;
mod applying;
mod entries;
mod fetching;
mod forcing;
mod heard;
mod held_back;
mod install;
mod leading;
mod lost;
mod machine;
mod marks;
mod members;
mod persisting;
mod rule_switches;
mod telling;
#[cfg(test)]
mod testing;
mod told;

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::Message;
use raft::{Config, RawNode, Ready, StateRole};

pub use self::entries::members_at;
use self::entries::Entries;
pub use self::fetching::Fetch;
pub use self::forcing::{is_only_member, only_member, ForceError};
use self::leading::Leading;
pub use self::leading::{Outcome, StateChange};
pub use self::machine::Divergence;
use self::machine::Machine;
use self::marks::Marks;
pub use self::members::{are_members, is_member, MembersStep, FIRST_INDEX};
use self::persisting::Unpersisted;
use self::rule_switches::holds;
#[cfg(not(feature = "broken-rules"))]
use self::rule_switches::Rule;
#[cfg(feature = "broken-rules")]
pub use self::rule_switches::{break_rule, Rule};
pub use self::told::{Event, GroupStatus, Work};
use super::copy::{Base, Checkpoint, FoundCopy, Vote};

/// Ticks without a leader until a member asks for votes: so many to twice as many.
pub const ELECTION_TICKS: usize = 10;
/// Ticks between heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// Bytes of entries in one message, unless a single one is longer.
const MESSAGE_BYTES: u64 = 1 << 20;
/// Messages with entries on their way to a member.
const MESSAGES_IN_FLIGHT: usize = 64;
/// Bytes of committed entries that are applied at a time. Of those that are read from the disk, all that are applied in one turn.
const APPLY_BYTES: u64 = 4 << 20;

/// One copy.
pub struct Group {
    member: u64,
    node: RawNode<Entries>,
    machine: Machine,
    /// Messages that wait for what has this number to be persisted, and whether the disk has been given anything under it.
    unpersisted: VecDeque<Unpersisted>,
    /// The base that is being installed: nothing else happens meanwhile.
    installing: Option<u64>,
    /// The vote that the disk was given last.
    vote: Vote,
    /// The newest term that is persisted.
    persisted_term: u64,
    /// The last entry of which the others were told with a tick that it is committed.
    told_commit: u64,
    /// What was said last of who leads.
    told: Option<(u64, Option<u64>)>,
    leading: Option<Leading>,
    events: Vec<Event>,
    messages: Vec<Message>,
    /// Ticks since each member was sent a base.
    install_ticks: Vec<(u64, u32)>,
    /// This copy has applied that it is no member any more.
    is_removed: bool,
    /// The term in which all members were found to know that they are the members.
    settled_in: Option<u64>,
    /// The term and index of the last entry that was proposed to find that out.
    spread: Option<(u64, u64)>,
    /// The number of what the consensus crate has given last.
    last_number: u64,
    /// The copy has lost entries that it may have acknowledged in terms up to this one (`lost.rs`).
    lost_in: Option<u64>,
    /// The entries do not fit on the disk now (`lost.rs`).
    awaits_room: bool,
    /// Ticks that it was to wait before it asks for votes, while it must not ask (`held_back.rs`).
    drawn_ticks: Option<usize>,
    /// Ticks for which each member was not heard, at the leader (`heard.rs`).
    silent_ticks: BTreeMap<u64, u32>,
    /// Running checksums of some of the last entries that were applied (`marks.rs`).
    marks: Marks,
}

impl Group {
    /// The copy of `member`, as it was found on its disk.
    ///
    /// # Errors
    /// What was found contradicts itself.
    pub fn open(member: u64, found: FoundCopy) -> Result<Self, raft::Error> {
        let config = Config {
            id: member,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: found.checkpoint.position.index,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: MESSAGES_IN_FLIGHT,
            max_committed_size_per_ready: APPLY_BYTES,
            check_quorum: true,
            pre_vote: true,
            // What is committed is told with the next entries, or with the next tick: see [`Group::tick`].
            skip_bcast_commit: true,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, Entries::new(&found), &logger)?;
        // A copy that was never given anything has no members at all.
        let is_new = found.checkpoint.position.index == 0;
        let is_removed = !is_new && !is_member(&node.raft.prs().conf().to_conf_state(), member);
        let lost_in = found.lost_in.filter(|lost_in| *lost_in >= found.checkpoint.position.term);
        Ok(Group {
            member,
            node,
            vote: found.vote,
            // That of the base as well: a copy that was just made has no vote.
            persisted_term: found.vote.term.max(found.base.position.term),
            told_commit: 0,
            machine: Machine::new(found.checkpoint),
            unpersisted: VecDeque::new(),
            installing: None,
            told: None,
            leading: None,
            events: Vec::new(),
            messages: Vec::new(),
            install_ticks: Vec::new(),
            is_removed,
            settled_in: None,
            spread: None,
            last_number: 0,
            lost_in,
            awaits_room: false,
            drawn_ticks: None,
            silent_ticks: BTreeMap::new(),
            marks: Marks::default(),
        })
    }

    /// Time passes.
    pub fn tick(&mut self) {
        if self.is_standing() || self.is_held_back() {
            return;
        }
        self.node.tick();
        self.note_heard();
        self.give_up_installs();
        self.tell_commit();
    }

    /// A message of another member has come.
    pub fn step(&mut self, message: Message) {
        if !self.is_standing() && self.takes(&message) {
            // An error means that it is late, or of nobody that counts: as if it were lost.
            let _ = self.node.step(message);
        }
    }

    /// A message to `member` was certainly lost.
    pub fn unreachable(&mut self, member: u64) {
        if !self.is_standing() {
            self.node.report_unreachable(member);
        }
    }

    /// Nothing may happen to it: a base is being installed, or it is no member any more.
    fn is_standing(&self) -> bool {
        self.installing.is_some() || self.is_removed
    }

    /// The copy's entries begin later than before.
    pub fn trimmed(&mut self, base: Base) {
        self.machine.forget_members_before(base.position.index);
        self.node.mut_store().set_base(base);
    }

    /// Asks for votes at once.
    pub fn campaign(&mut self) {
        // The crate makes a leader of whoever asks nobody: also of one that has no members yet.
        if !self.is_standing() && !self.must_not_lead() && self.node.raft.promotable() {
            let _ = self.node.campaign();
        }
    }

    /// Hands leadership to `member` as soon as that has all entries. Gives up after an election time-out.
    pub fn transfer_to(&mut self, member: u64) {
        if !self.is_standing() {
            self.node.transfer_leader(member);
        }
    }

    /// Waits that many ticks before it asks for votes, instead of as many as are drawn. For tests, which draw them themselves.
    pub fn set_election_ticks(&mut self, ticks: usize) {
        self.node.raft.set_randomized_election_timeout(ticks);
    }

    /// Keeps so many bytes of entries in memory. For tests, which read from the disk before there is much.
    pub fn set_cached_bytes(&mut self, bytes: usize) {
        self.node.mut_store().set_max_cached_bytes(bytes);
    }

    /// What is to be done after all that has happened. `unix_ms` is the time that new entries are given.
    ///
    /// # Errors
    /// A committed entry cannot be applied: the group must stop.
    pub fn work(&mut self, unix_ms: u64) -> Result<Work, Divergence> {
        let mut persists = Vec::new();
        self.propose(unix_ms);
        while !self.is_standing() && self.node.has_ready() {
            let mut ready = self.node.ready();
            let (number, is_idle) = (ready.number(), is_idle(&ready));
            self.messages.extend(ready.take_messages());
            for read in ready.take_read_states() {
                self.confirmed(&read.request_ctx);
            }
            let committed = ready.take_committed_entries();
            let persist = self.persist(&mut ready)?;
            self.node.advance_append_async(ready);
            if let Some(persist) = persist {
                persists.push(persist);
                if !holds(Rule::AwaitsDisk) {
                    self.node.on_persist_ready(number);
                }
            } else if self.unpersisted.iter().all(|waiting| !waiting.is_on_disk) {
                self.release(self.unpersisted.len());
            }
            self.apply(number, committed, &mut persists)?;
            self.note_role();
            self.last_number = number;
            if is_idle {
                // What is committed has to be read first.
                break;
            }
        }
        self.acknowledge();
        self.note_regained(&mut persists);
        let (messages, events) = (std::mem::take(&mut self.messages), std::mem::take(&mut self.events));
        let store = self.node.mut_store();
        let mut fetches = store.applying().take_wanted();
        fetches.append(&mut store.fetching().take_wanted());
        Ok(Work { messages, persists, events, fetches, is_removed: self.is_removed })
    }

    /// Notices who leads.
    fn note_role(&mut self) {
        let raft = &self.node.raft;
        let (term, leads) = (raft.term, raft.state == StateRole::Leader);
        if self.leading.as_ref().is_some_and(|leading| !leads || leading.term() != term) {
            self.stop_leading();
        }
        if leads {
            if self.leading.is_none() {
                self.leading = Some(Leading::new(term));
                if !holds(Rule::AppliesBeforeLeading) {
                    self.begin_to_lead();
                }
            }
            return;
        }
        let leader = Some(self.node.raft.leader_id).filter(|&leader| leader != 0);
        if self.told != Some((term, leader)) {
            self.told = Some((term, leader));
            self.events.push(Event::Follows { term, leader });
        }
    }

    /// The id of this member.
    pub fn member(&self) -> u64 {
        self.member
    }

    /// What the committed entries add up to.
    pub fn checkpoint(&self) -> &Checkpoint {
        self.machine.checkpoint()
    }

    /// Whether the state is that of the log's end: not while entries are missing after a base was installed.
    pub fn is_whole(&self) -> bool {
        self.machine.is_whole()
    }
}

/// Whether there is nothing in it.
fn is_idle(ready: &Ready) -> bool {
    let has_messages = !ready.messages().is_empty() || !ready.persisted_messages().is_empty();
    let has_entries = !ready.entries().is_empty() || !ready.committed_entries().is_empty();
    let has_changed = ready.hs().is_some() || ready.ss().is_some() || !ready.snapshot().is_empty();
    !has_messages && !has_entries && !has_changed && ready.read_states().is_empty()
}
