//! What a log service knows: its own rules ([`Epochs`]) over a log that is durable as soon as it is written. The order of writing,
//! syncing and answering is tested with the service itself.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use durability_leadership::Holder;
use logservice::shard::{Admission, Epochs, LeaseLeft, Node};
use logservice::store::Manifest;

use crate::network::{NodeId, Process};
use crate::search::Rules;
use crate::time::{instant, lease_ms, Ticks, LEASE, LEASE_MS, LEASE_TICKS, MARGIN};

const SHARD: &str = "s";
const NAMES: [&str; 2] = ["a", "b"];

/// Name of a node.
pub fn name(node: NodeId, rules: &Rules) -> &'static str {
    NAMES[if rules.names_differ { usize::from(node) } else { 0 }]
}

/// The log and who may write it.
#[derive(Debug, Clone)]
pub struct Ledger {
    epochs: Arc<Epochs>,
    key: Key,
    /// Who wrote each entry, by epoch. Within one epoch entries are told apart by their places.
    pub log: Vec<u8>,
}

/// All that makes two [`Epochs`] differ, as the model uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    epoch: u8,
    leader: Option<Process>,
    /// From when the lease counts.
    counts_from: Ticks,
    /// How long it is.
    length: Ticks,
    /// How long it is for whoever knows no more than what is committed.
    committed_length: Ticks,
    /// Where the epoch began.
    began_at: u8,
    /// Whether the lease is being taken from its leader.
    is_revoked: bool,
}

impl PartialEq for Ledger {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, &self.log) == (&other.key, &other.log)
    }
}

impl Eq for Ledger {}

impl Hash for Ledger {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.key, &self.log).hash(state);
    }
}

impl Ledger {
    /// An empty log that nobody ever led.
    pub fn new() -> Self {
        let epochs = Arc::new(Epochs::from_manifest(&manifest(), instant(0)));
        Ledger {
            epochs,
            key: Key {
                epoch: 0,
                leader: None,
                counts_from: 0,
                length: 0,
                committed_length: 0,
                began_at: 0,
                is_revoked: false,
            },
            log: Vec::new(),
        }
    }

    /// The end of the log.
    pub fn end(&self) -> u8 {
        self.log.len() as u8
    }

    /// The newest epoch.
    pub fn epoch(&self) -> u8 {
        self.key.epoch
    }

    /// Whether an earlier life of that process leads, or it itself without knowing.
    pub fn is_led_by_earlier_life_of(&self, process: Process) -> bool {
        self.key.leader.is_some_and(|leader| leader.node == process.node)
    }

    /// Who holds the lease, as a process is told that does not lead.
    pub fn holder(&self, process: Process, now: Ticks, rules: &Rules) -> Holder<'static> {
        let Some(leader) = self.key.leader else { return Holder::Nobody };
        let has_same_name = name(leader.node, rules) == name(process.node, rules);
        if self.is_led_by_earlier_life_of(process) || has_same_name && !rules.waits_for_own_name {
            return Holder::EarlierLife;
        }
        let left = match self.epochs.lease_left(judged_at(now, rules)) {
            LeaseLeft::Nobody => return Holder::Nobody,
            LeaseLeft::Forever => None,
            LeaseLeft::For(left) => Some(left),
        };
        Holder::Node { node_id: name(leader.node, rules), left }
    }

    /// `LOG.ACQUIRE` and `LOG.BEGIN`: the new epoch, if the lease is free and `expected_end` the log's end.
    pub fn acquire(&mut self, process: Process, expected_end: u8, now: Ticks, rules: &Rules) -> Option<u8> {
        self.acquire_for(LEASE_TICKS, process, expected_end, now, rules)
    }

    /// As [`Ledger::acquire`], with a lease of that length.
    pub fn acquire_for(
        &mut self,
        length: Ticks,
        process: Process,
        expected_end: u8,
        now: Ticks,
        rules: &Rules,
    ) -> Option<u8> {
        let name = name(process.node, rules);
        let is_own = !rules.waits_for_own_name && self.epochs.leader().is_some_and(|leader| leader.node_id == name);
        let is_free = is_own || self.epochs.check_free(SHARD, name, judged_at(now, rules)).is_ok();
        if !is_free || expected_end != self.end() {
            return None;
        }
        let epoch = self.epochs.epoch() + 1;
        let epochs = Arc::make_mut(&mut self.epochs);
        epochs.grant(epoch, candidate(name), lease_ms(length), instant(now));
        let end = u64::from(expected_end);
        epochs.begin(epoch, &format!("{epoch:040x}"), end, end).expect("it leads, at the end");
        let leader = Some(process);
        self.key = Key {
            epoch: epoch as u8,
            leader,
            counts_from: now,
            length,
            committed_length: length,
            began_at: expected_end,
            is_revoked: false,
        };
        Some(epoch as u8)
    }

    /// Whether a renewal, if it is granted, changes the length of the lease: all ask for [`LEASE`].
    pub fn would_change_length(&self, epoch: u8) -> bool {
        self.key.epoch == epoch && self.key.leader.is_some() && self.key.length != LEASE_TICKS
    }

    /// `LOG.RENEW`: whether it is granted. That the length has changed is forgotten with all else that is only in memory, unless it
    /// `is_committed`.
    pub fn renew(&mut self, epoch: u8, now: Ticks, is_committed: bool) -> bool {
        let is_renewed = Arc::make_mut(&mut self.epochs).renew(u64::from(epoch), LEASE_MS, instant(now)).is_ok();
        if is_renewed {
            self.key.counts_from = now;
            self.key.length = LEASE_TICKS;
            if is_committed {
                self.key.committed_length = LEASE_TICKS;
            }
        }
        is_renewed
    }

    /// `LOG.RESIGN`
    pub fn release(&mut self, epoch: u8) {
        if Arc::make_mut(&mut self.epochs).release(u64::from(epoch)).is_ok() {
            self.key.leader = None;
            self.key.is_revoked = false;
        }
    }

    /// `LOG.RELEASE`, by an operator.
    pub fn revoke(&mut self, rules: &Rules) {
        let epoch = self.key.epoch;
        if rules.waits_for_resignation {
            Arc::make_mut(&mut self.epochs).revoke(u64::from(epoch), None).expect("it is the newest");
            self.key.is_revoked = true;
        } else {
            self.release(epoch);
        }
    }

    /// Whether somebody leads, from whom nobody takes the lease.
    pub fn is_led(&self) -> bool {
        self.key.leader.is_some() && !self.key.is_revoked
    }

    /// Whether the lease of `epoch` is being taken from its leader, who is told so in answer to whatever it sends.
    pub fn is_revoked(&self, epoch: u8) -> bool {
        self.epochs.is_revoked(u64::from(epoch))
    }

    /// `LOG.APPEND` of one entry: what is durable then, if it is not refused.
    pub fn append(&mut self, epoch: u8, offset: u8, rules: &Rules) -> Option<u8> {
        let end = u64::from(self.end());
        let admission = match self.epochs.admit(u64::from(epoch), u64::from(offset), 1, end) {
            Err(_) if !rules.fences_appends && offset < self.end() => Ok(Admission::Overlap { bytes: 1 }),
            Err(_) if !rules.fences_appends && offset == self.end() => Ok(Admission::Write),
            admission => admission,
        };
        if let Admission::Write = admission.ok()? {
            self.log.push(epoch);
        }
        Some(offset + 1)
    }

    /// A service that knows nothing but what is stored, or committed, begins to decide. If `counts_anew`, a whole lease; otherwise as
    /// if it had been stored when the lease passes, and the time were not known.
    pub fn open(&mut self, now: Ticks, counts_anew: bool) {
        let counts_from = if counts_anew { instant(now) } else { instant(now) - LEASE - MARGIN };
        let mut manifest = manifest();
        self.epochs.store_in(&mut manifest);
        if let Some(leader) = &mut manifest.leader {
            leader.lease_ms = lease_ms(self.key.committed_length);
        }
        self.epochs = Arc::new(Epochs::from_manifest(&manifest, counts_from));
        self.key.counts_from = now;
        self.key.length = self.key.committed_length;
        self.key.is_revoked = false;
    }
}

fn manifest() -> Manifest {
    Manifest::new(SHARD, format!("{:040x}", 0), "id".to_owned())
}

fn candidate(node_id: &str) -> Node<'_> {
    Node { node_id, address: "host:1", engine: None, process: None, databases: None }
}

/// The time by which the service judges whether the lease is free.
fn judged_at(now: Ticks, rules: &Rules) -> Instant {
    let now = instant(now);
    if !rules.waits_for_lease {
        return now + LEASE + MARGIN;
    }
    if !rules.waits_for_margin {
        return now + MARGIN - missing_margin();
    }
    now - missing_margin()
}

/// What [`Epochs`] waits too little; it is added here, so that the rules are explored as they are meant.
fn missing_margin() -> Duration {
    static MISSING: OnceLock<Duration> = OnceLock::new();
    *MISSING.get_or_init(|| {
        let mut epochs = Epochs::from_manifest(&manifest(), instant(0));
        epochs.grant(1, candidate(NAMES[0]), LEASE_MS, instant(0));
        let is_early = epochs.check_free(SHARD, NAMES[1], instant(0) + LEASE).is_ok();
        if is_early {
            MARGIN
        } else {
            Duration::ZERO
        }
    })
}
