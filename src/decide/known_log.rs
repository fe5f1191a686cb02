//! What this node knows of the log that it leads or follows, for as long as the process lives, and what contradicts it. Plain logic:
//! knows no server, socket or clock.

use durability_protocol::{Code, Known, Refusal};

/// What a node remembers of its log. It grows only: what was durable once stays so.
#[derive(Debug, Default)]
pub struct Memory {
    known: Option<Known>,
    /// Whether the node leads, so that more becomes durable all the time under the epoch and replication id that are known.
    leads: bool,
}

impl Memory {
    /// What is known when the log has acknowledged everything below `durable` to this node as its leader; that counts only while it leads.
    pub fn now(&self, durable: Option<u64>) -> Option<Known> {
        let mut known = self.known.clone()?;
        if let Some(durable) = durable.filter(|_| self.leads) {
            known.durable = known.durable.max(durable);
        }
        Some(known)
    }

    /// The node attaches to the log of that id: it knew none, or it knows that one.
    pub fn attached(&mut self, log_id: &str) {
        self.known.get_or_insert_with(|| Known::new(log_id));
    }

    /// As a follower the node had applied everything below `applied` before it heard that the leader of `epoch` was the last to begin to
    /// write, under `replid`.
    pub fn followed(&mut self, epoch: u64, replid: &str, applied: u64) {
        if let Some(known) = self.known.as_mut().filter(|known| applied >= known.durable && epoch >= known.epoch) {
            known.epoch = epoch;
            replid.clone_into(&mut known.replid);
            known.durable = applied;
        }
    }

    /// The node leads in `epoch`, under `replid`; the log holds everything below `durable`.
    pub fn leads(&mut self, epoch: u64, replid: &str, durable: u64) {
        if let Some(known) = &mut self.known {
            // The log granted it at its end, as it was compared with what was known before.
            debug_assert!(durable >= known.durable);
            *known = Known { epoch, replid: replid.to_owned(), durable, ..known.clone() };
        }
        self.leads = true;
    }

    /// The node leads no more; the log had acknowledged everything below `durable`.
    pub fn ceased(&mut self, durable: Option<u64>) {
        self.known = self.now(durable);
        self.leads = false;
    }

    /// An operator says that the log is another one from now on.
    pub fn forget(&mut self) {
        *self = Memory::default();
    }
}

/// The log that answers is not what this node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// The id of the log that answers.
    pub log_id: String,
    /// What the log service says, or the node itself.
    pub detail: String,
    /// How it can end.
    pub kind: Kind,
}

/// How a contradiction can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The right log is put back: to ask again shows it. Or an operator accepts this one.
    Passing,
    /// To ask again cannot show that it is over: only an operator can say so.
    Lasting,
    /// The log is right, and went on while this node had none. What this node wrote meanwhile is in no log, so it gives way only for an
    /// operator's word. The log cannot start anew from it: others have led.
    Unfollowed,
}

impl Contradiction {
    /// What the log service refuses to a node that compares what it knows; `None` if that is no contradiction.
    pub fn of(refusal: &Refusal, known: &Known) -> Option<Self> {
        let log_id = match refusal.code {
            Code::OtherLog => refusal.detail.split(' ').next().unwrap_or_default(),
            Code::Gap => &known.log,
            _ => return None,
        };
        Some(Contradiction { log_id: log_id.to_owned(), detail: refusal.to_string(), kind: Kind::Passing })
    }

    /// The log of that id went on while this node had none and wrote.
    pub fn unfollowed(log_id: &str) -> Self {
        let detail = "other nodes have led it while this one had no log and wrote".to_owned();
        Contradiction { log_id: log_id.to_owned(), detail, kind: Kind::Unfollowed }
    }

    /// Whether only an operator can say that it is over.
    pub fn is_lasting(&self) -> bool {
        self.kind == Kind::Lasting
    }

    /// Whether an operator who names the log of that id lets what this node wrote while it had no log give way to it.
    pub fn is_unfollowed(&self, log_id: &str) -> bool {
        self.kind == Kind::Unfollowed && self.log_id == log_id
    }

    /// What is wrong, and what to do, for an operator.
    pub fn text(&self, shard: &str) -> String {
        let Contradiction { log_id, detail, kind } = self;
        let put_back = match kind {
            Kind::Passing => "then this node goes on by itself",
            Kind::Lasting => "restart the log service on it, then restart this server",
            Kind::Unfollowed => {
                return format!(
                    "the log of shard {shard} holds data that this node did not follow while this node had no log, and may lack \
                     what this node wrote. It still holds its data, and serves nobody: save it (BGSAVE) before anything else. \
                     DURABILITY.ACCEPT-LOG {log_id} takes the log's data and drops this node's. To keep them apart instead, restart \
                     this server with a new durability.shard"
                )
            }
        };
        format!(
            "the log of shard {shard} is not the one that this node knows ({detail}): its storage was rolled back or exchanged. This \
             node still holds the data, and serves nobody: save it (BGSAVE) before anything else. Put the right log back: {put_back}. \
             If the log is right: DURABILITY.ACCEPT-LOG {log_id} takes its data and drops this node's; DURABILITY.ACCEPT-LOG {log_id} SEED \
             starts it anew from this node's data"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(epoch: u64, replid: &str, durable: u64) -> Option<Known> {
        Some(Known { log: "id".to_owned(), epoch, replid: replid.to_owned(), durable })
    }

    #[test]
    fn what_was_durable_once_stays_known() {
        let mut memory = Memory::default();
        memory.followed(1, "a", 10);
        assert_eq!(memory.now(Some(100)), None, "no log is known");
        memory.attached("id");
        assert_eq!(memory.now(Some(100)), known(0, "", 0), "it does not lead");
        memory.followed(1, "a", 10);
        memory.followed(1, "a", 9);
        assert_eq!(memory.now(None), known(1, "a", 10));
        memory.leads(2, "b", 10);
        assert_eq!(memory.now(Some(30)), known(2, "b", 30));
        assert_eq!(memory.now(None), known(2, "b", 10), "a seed is on its way");
        memory.ceased(Some(40));
        memory.attached("other");
        assert_eq!(memory.now(Some(100)), known(2, "b", 40));
        memory.followed(1, "a", 50);
        assert_eq!(memory.now(None), known(2, "b", 40), "what it heard late");
        memory.forget();
        memory.attached("other");
        assert_eq!(memory.now(None), Some(Known::new("other")));
    }

    #[test]
    fn a_contradiction_tells_what_an_operator_can_accept() {
        let known = Known::new("mine");
        let of = |code, detail: &str| Contradiction::of(&Refusal::new(code, detail), &known);
        let other = of(Code::OtherLog, "theirs is the id").expect("a contradiction");
        assert!(other.text("s1").contains("ACCEPT-LOG theirs SEED"));
        assert_eq!(of(Code::Gap, "5 is the end").map(|contradiction| contradiction.log_id), Some("mine".to_owned()));
        assert_eq!(of(Code::NoAuth, "no"), None);
        let unfollowed = Contradiction::unfollowed("mine").text("s1");
        assert!(unfollowed.contains("DURABILITY.ACCEPT-LOG mine takes") && !unfollowed.contains("SEED"));
        assert!(Contradiction::unfollowed("mine").is_unfollowed("mine"));
        assert!(!Contradiction::unfollowed("mine").is_unfollowed("theirs"), "a word for the log that was there before");
        assert!(!other.is_unfollowed("theirs"));
    }
}
