//! A copy that has lost what it acknowledged, and one that has no space.
//!
//! # Lost entries
//!
//! A damaged copy begins anew, without entries, and keeps its vote ([`CopyDisks::begin_anew`]). It may have acknowledged what it has lost. If it
//! voted as before, a member that lacks an entry could be elected which was committed because this one had acknowledged it. So it neither
//! votes nor leads until it has applied an entry of a term later than any in which it may have acknowledged something: later than its vote's
//! when it began anew, `lost_in`.
//!
//! Why that is enough: it has promised nothing in a term beyond `lost_in`, so whoever leads in one was elected without its vote. An entry of a
//! term up to `lost_in` that is committed, or ever will be, is so because a quorum has acknowledged it, and this copy may be one of that. The
//! quorum that elected has a member in common with it, which is not this one. That member had the entry when it voted, as it takes nothing of
//! an earlier term afterwards. So the entry is in the log of whoever was elected, before any entry of the later term. This holds for each later
//! leader in turn.
//!
//! Of terms up to `lost_in` the copy takes no message at all: a leader in one takes it for further than it is. Services tell each other of
//! `lost_in` (`cluster/copy_reports.rs`), and such a leader hands over, which begins a later term.
//!
//! # No space
//!
//! A copy that does not take entries for want of space goes on to vote for others and to hear who leads. It does not ask for votes
//! (`held_back.rs`): it could not store what it decides.
//!
//! [`CopyDisks::begin_anew`]: crate::replica::copy::CopyDisks::begin_anew

use raft::eraftpb::{Message, MessageType};

use super::rule_switches::{holds, Rule};
use super::Group;
use crate::replica::copy::Persist;

impl Group {
    /// The copy has lost entries that it may have acknowledged in terms up to this one; none if it has not, or has all that counts again.
    pub fn lost_in(&self) -> Option<u64> {
        self.lost_in
    }

    /// Whether the copy takes no entries for want of space. Any number of times.
    pub fn set_awaits_room(&mut self, awaits_room: bool) {
        self.awaits_room = awaits_room;
    }

    pub(super) fn has_lost(&self) -> bool {
        self.lost_in.is_some() && holds(Rule::WaitsForLaterTerm)
    }

    /// Whether a message counts.
    pub(super) fn takes(&self, message: &Message) -> bool {
        if self.has_lost() && self.lost_in.is_some_and(|lost_in| message.term <= lost_in) {
            return false;
        }
        match message.get_msg_type() {
            MessageType::MsgTimeoutNow => !self.must_not_lead(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => !self.has_lost(),
            MessageType::MsgAppend => !self.awaits_room || message.entries.is_empty(),
            MessageType::MsgSnapshot => !self.awaits_room,
            _ => true,
        }
    }

    /// Notices that the copy has all again that it may have acknowledged.
    pub(super) fn note_regained(&mut self, persists: &mut Vec<Persist>) {
        let term = self.machine.position().term;
        if self.installing.is_none() && self.lost_in.is_some_and(|lost_in| lost_in < term) {
            self.lost_in = None;
            persists.push(self.checkpoint_to_persist(self.last_number));
        }
    }
}
