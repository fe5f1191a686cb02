//! Who may append, and where: epochs and the lease on the current one; [`history`] holds what they wrote. Plain logic: no socket, no file,
//! no clock of its own. A change is made on a copy, stored, and only then takes the place of the original.

mod history;
#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use durability_protocol::{Code, EngineVersion, Refusal};

use crate::shard::lease::{expiry, later_expiry, whole_ms, LeaseLeft};
use crate::shard::rule_switches::{self, Rule};
use crate::store::{Epoch, Leader, Manifest};

pub use history::{Admission, Held};

/// For how long a lease that never expires is kept from being made shorter, in milliseconds: for longer than a request can be on its way.
const NO_EXPIRY_KEPT_MS: u64 = 60_000;
/// Epochs that are remembered. A node that comes back with the replication id of an older one is given a full copy.
const MAX_EPOCHS: usize = 256;

/// The epochs of a shard and the lease on the current one.
#[derive(Debug, Clone)]
pub struct Epochs {
    history: Vec<Epoch>,
    leader: Option<Leader>,
    /// When the lease ends; none when it does not expire.
    expires: Option<Instant>,
    /// For whom the last leader left it. Not stored.
    reserved: Option<Reservation>,
    /// The leader's appends at or above this offset were its own.
    own_from: Option<u64>,
    /// The operator takes the lease from the leader, which can do nothing any more but resign. Not stored: after a restart of the
    /// service it leads on, unless it was told.
    revoked: Option<Revoked>,
}

/// What an operator has said who takes the lease.
#[derive(Debug, Clone)]
struct Revoked {
    successor: Option<Successor>,
}

/// The only node that may lead next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Successor {
    /// Its name.
    pub node_id: String,
    /// Where it is reached.
    pub address: String,
    /// For how long, from when the lease is free.
    pub time: Duration,
}

/// Only this node may lead next.
#[derive(Debug, Clone)]
struct Reservation {
    node_id: String,
    address: String,
    until: Instant,
}

/// What nodes are to learn of when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// The number of the newest epoch.
    pub epoch: u64,
    /// Node id and address of who leads.
    pub leader: Option<(String, String)>,
    /// Where its epoch began to write, if it did.
    pub began_at: Option<u64>,
    /// Whether the lease can be taken: nobody holds it, or it has expired.
    pub is_free: bool,
    /// The only node that can take it.
    pub reserved_for: Option<String>,
    /// Whether it is being taken from the leader.
    pub is_revoked: bool,
}

/// A node that wants to lead.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    /// Its name.
    pub node_id: &'a str,
    /// Where it is reached.
    pub address: &'a str,
    /// What it runs, if it tells.
    pub engine: Option<EngineVersion>,
    /// Which process it is, if it tells; see `durability_protocol::process`.
    pub process: Option<&'a str>,
    /// How many databases it can write to, if it tells.
    pub databases: Option<u32>,
}

impl Epochs {
    /// The epochs that a manifest records. The holder may have renewed just before the service went down, so its lease
    /// counts from `now` in full, margin included.
    pub fn from_manifest(manifest: &Manifest, now: Instant) -> Self {
        let leader = manifest.leader.clone();
        let mut expires = leader.as_ref().and_then(|leader| expiry(leader.lease_ms, now));
        if !rule_switches::holds(Rule::CountsAnewAfterRestart) {
            expires = expires.map(|_| now);
        }
        let own_from = manifest.epochs.last().and_then(|entry| entry.first_offset);
        Epochs { history: manifest.epochs.clone(), leader, expires, reserved: None, own_from, revoked: None }
    }

    /// The same, as far as a service knows them that does not decide: not how long the lease lasts, as renewals are not stored.
    pub fn as_followed(self) -> Self {
        Epochs { expires: None, ..self }
    }

    /// Puts these epochs into a manifest.
    pub fn store_in(&self, manifest: &mut Manifest) {
        manifest.epochs = self.history.clone();
        manifest.leader = self.leader.clone();
    }

    /// The number of the newest epoch.
    pub fn epoch(&self) -> u64 {
        self.history.last().map_or(0, |entry| entry.epoch)
    }

    /// Who leads.
    pub fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    /// The newest epoch that has begun to write. Its leader is the primary to clients, until the next epoch begins: a node that was
    /// only granted the lease does not serve yet.
    pub fn newest_begun(&self) -> Option<&Epoch> {
        self.history.iter().rev().find(|entry| entry.replid.is_some())
    }

    /// The replication id under which the log continues.
    pub fn replid(&self) -> &str {
        self.history.iter().rev().find_map(|entry| entry.replid.as_deref()).unwrap_or_default()
    }

    /// Version of the engine of the newest epoch.
    pub fn engine(&self) -> Option<EngineVersion> {
        self.history.last().and_then(|entry| entry.engine)
    }

    /// Length of the lease in milliseconds; 0 if there is none or it does not expire.
    pub fn lease_ms(&self) -> u64 {
        self.leader.as_ref().map_or(0, |leader| leader.lease_ms)
    }

    /// What is left until another node may have the lease: of its length and of the margin for clocks that drift apart.
    pub fn lease_left(&self, now: Instant) -> LeaseLeft {
        match (&self.leader, self.expires) {
            (None, _) => LeaseLeft::Nobody,
            (Some(_), None) => LeaseLeft::Forever,
            (Some(_), Some(expires)) => LeaseLeft::For(expires.saturating_duration_since(now)),
        }
    }

    /// The node for which the lease is reserved.
    pub fn reserved_for(&self, now: Instant) -> Option<&str> {
        self.reservation(now).map(|reserved| reserved.node_id.as_str())
    }

    fn reservation(&self, now: Instant) -> Option<&Reservation> {
        self.reserved.as_ref().filter(|reserved| reserved.until > now)
    }

    /// What nodes are to know at that time.
    pub fn leadership(&self, now: Instant) -> Leadership {
        Leadership {
            epoch: self.epoch(),
            leader: self.leader.as_ref().map(|leader| (leader.node_id.clone(), leader.address.clone())),
            began_at: self.history.last().and_then(|entry| entry.first_offset),
            is_free: match self.lease_left(now) {
                LeaseLeft::Nobody => true,
                LeaseLeft::Forever => false,
                LeaseLeft::For(left) => left.is_zero(),
            },
            reserved_for: self.reserved_for(now).map(str::to_owned),
            is_revoked: self.revoked.is_some(),
        }
    }

    /// When [`Epochs::leadership`] changes by time alone: the lease expires, or a reservation ends.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let expires = self.expires.filter(|expires| self.leader.is_some() && *expires > now);
        let reserved_until = self.reservation(now).map(|reserved| reserved.until);
        expires.into_iter().chain(reserved_until).min()
    }

    /// Whether `node_id` may take the lease: it is reserved for nobody else, and nobody holds it, it has expired, or the same
    /// node holds it and it never does. One that expires is waited for by the same node as by any other: what holds it may be
    /// another process of that name, and still answer.
    pub fn check_free(&self, shard: &str, node_id: &str, now: Instant) -> Result<(), Refusal> {
        if let Some(reserved) = self.reservation(now).filter(|reserved| reserved.node_id != node_id) {
            let Reservation { node_id: node, address, until } = reserved;
            let left_ms = whole_ms(until.saturating_duration_since(now));
            let text = format!(
                "{node} {address} {left_ms} is to lead shard {shard} next: reserved for {node} for {left_ms} ms"
            );
            return Err(Refusal::new(Code::Leased, text));
        }
        let is_own_for_ever = |leader: &Leader| leader.node_id == node_id && self.expires.is_none();
        let Some(leader) = self.leader.as_ref().filter(|leader| !is_own_for_ever(leader)) else { return Ok(()) };
        let (node, address, epoch) = (&leader.node_id, &leader.address, self.epoch());
        match self.lease_left(now) {
            LeaseLeft::For(left) if left.is_zero() || !rule_switches::holds(Rule::WaitsForLease) => Ok(()),
            LeaseLeft::For(left) => Err(Refusal::new(
                Code::Leased,
                format!("{node} {address} {} leads shard {shard} in epoch {epoch}", whole_ms(left)),
            )),
            LeaseLeft::Nobody | LeaseLeft::Forever => Err(self.led_for_ever(shard, leader)),
        }
    }

    /// Refuses the very process that holds a lease which never expires. That process has asked for it anew since it sent this, or has given
    /// it up without saying so: it has to free it first ([`Epochs::release`]). Were it granted another epoch, it would go on in the one
    /// before, while the lease of the new one passes.
    pub fn check_not_led_by(&self, shard: &str, process: Option<&str>) -> Result<(), Refusal> {
        let is_its_own = |leader: &&Leader| process.is_some() && leader.process.as_deref() == process;
        match self.leader.as_ref().filter(|_| self.expires.is_none()).filter(is_its_own) {
            Some(leader) => Err(self.led_for_ever(shard, leader)),
            None => Ok(()),
        }
    }

    /// Refuses what was asked for when `seen` was the newest epoch, if another one is now: it comes late, and the process that asked may be
    /// over.
    pub fn check_still_newest(&self, seen: Option<u64>, now: Instant) -> Result<(), Refusal> {
        let Some(seen) = seen.filter(|seen| *seen != self.epoch()) else { return Ok(()) };
        let (node, address) = self.leader.as_ref().map_or(("-", "-"), |leader| (&leader.node_id, &leader.address));
        let left_ms = match self.lease_left(now) {
            LeaseLeft::Nobody => 0,
            LeaseLeft::Forever => -1,
            LeaseLeft::For(left) => i64::try_from(whole_ms(left)).unwrap_or(i64::MAX),
        };
        let text = format!(
            "{node} {address} {left_ms} epoch {} is the newest, and epoch {seen} was when this was asked",
            self.epoch()
        );
        Err(Refusal::new(Code::Leased, text))
    }

    fn led_for_ever(&self, shard: &str, leader: &Leader) -> Refusal {
        let (node, address, epoch) = (&leader.node_id, &leader.address, self.epoch());
        Refusal::new(
            Code::Leased,
            format!(
                "{node} {address} -1 leads shard {shard} in epoch {epoch} with a lease that never expires; \
                 when that node is gone for good, free it with: LOG.RELEASE {shard} {epoch} FORCE"
            ),
        )
    }

    /// Takes the current leader's right to append; its lease stays until the next epoch is stored. That one has no number before: what is
    /// asked of an epoch by its number is about one leader.
    pub fn close(&mut self) {
        self.leader = None;
    }

    /// A new epoch for `node_id`.
    pub fn grant(&mut self, epoch: u64, node: Node<'_>, lease_ms: u64, now: Instant) {
        let Node { node_id, address, engine, process, databases } = node;
        self.history.retain(|entry| entry.replid.is_some());
        self.history.drain(..self.history.len().saturating_sub(MAX_EPOCHS - 1));
        self.history.push(Epoch {
            epoch,
            node_id: node_id.to_owned(),
            address: address.to_owned(),
            replid: None,
            first_offset: None,
            engine,
            databases,
        });
        self.leader = Some(Leader {
            node_id: node_id.to_owned(),
            address: address.to_owned(),
            lease_ms,
            process: process.map(str::to_owned),
        });
        self.expires = expiry(lease_ms, now);
        self.reserved = None;
        self.own_from = None;
        self.revoked = None;
    }

    /// Whether `epoch` is the current one and led by somebody.
    pub fn check_leading(&self, epoch: u64) -> Result<&Leader, Refusal> {
        match &self.leader {
            Some(_) if self.is_revoked(epoch) => Err(Refusal::new(
                Code::Fenced,
                format!("epoch {epoch} is over: an operator has taken the lease from its leader"),
            )),
            Some(leader) if epoch == self.epoch() => Ok(leader),
            Some(leader) => Err(Refusal::new(
                Code::Fenced,
                format!("epoch {epoch} is over: {} leads in epoch {}", leader.node_id, self.epoch()),
            )),
            None if epoch == self.epoch() => Err(Refusal::new(
                Code::Fenced,
                format!("epoch {epoch} is over: its lease was released, or is being granted to another node"),
            )),
            None => {
                Err(Refusal::new(Code::Fenced, format!("epoch {epoch} is over: the log is at epoch {}", self.epoch())))
            }
        }
    }

    /// Extends the lease from `now`; a shorter one ends sooner. True when its length has changed, which has to be stored. That
    /// renewals come in the order in which they were sent is for the caller to know.
    pub fn renew(&mut self, epoch: u64, lease_ms: u64, now: Instant) -> Result<bool, Refusal> {
        self.check_renewable(epoch)?;
        self.expires = expiry(lease_ms, now);
        let leader = self.leader.as_mut();
        Ok(leader.is_some_and(|leader| std::mem::replace(&mut leader.lease_ms, lease_ms) != lease_ms))
    }

    /// Whether a renewal for so long only moves the end of the lease of `epoch`.
    pub fn is_leased_as(&self, epoch: u64, lease_ms: u64) -> bool {
        self.check_renewable(epoch).is_ok_and(|leader| leader.lease_ms == lease_ms)
    }

    /// The length of the lease of `epoch`, if that holds it.
    pub fn lease_ms_of(&self, epoch: u64) -> Option<u64> {
        self.check_leading(epoch).ok().map(|leader| leader.lease_ms)
    }

    /// When a lease that is counted from `now` is over for certain; none if nobody holds it. One that never expires counts as a minute.
    pub fn kept_until(&self, now: Instant) -> Option<Instant> {
        let lease_ms = self.leader.as_ref()?.lease_ms;
        expiry(if lease_ms == 0 { NO_EXPIRY_KEPT_MS } else { lease_ms }, now)
    }

    fn check_renewable(&self, epoch: u64) -> Result<&Leader, Refusal> {
        self.check_leading(if rule_switches::holds(Rule::FencesRenewals) { epoch } else { self.epoch() })
    }

    /// Takes over from `in_force`, of which these are a changed copy, what has come since it was copied: how long the lease was renewed,
    /// and that it is being taken from its leader. A lease that another holds now, or nobody, has nothing to do with either; but one
    /// that its leader gives back to an operator is left to whom that one has named.
    pub fn keep_changes_since(&mut self, in_force: &Epochs, now: Instant) {
        if self.epoch() != in_force.epoch() || in_force.leader.is_none() {
            return;
        }
        if self.leader.is_some() {
            self.expires = later_expiry(self.expires, in_force.expires);
            self.revoked = in_force.revoked.clone();
        } else if let Some(successor) = in_force.revoked.as_ref().and_then(|revoked| revoked.successor.as_ref()) {
            self.reserve(successor, now);
        }
    }

    /// Frees the lease for everybody: its leader answers nobody any more, or an operator says so. Releasing the current epoch twice is
    /// no error, and ends a reservation.
    pub fn release(&mut self, epoch: u64) -> Result<(), Refusal> {
        self.check_newest(epoch)?;
        self.leader = None;
        self.reserved = None;
        self.revoked = None;
        Ok(())
    }

    /// Takes from the leader of `epoch`, which may still answer its clients, the right to append and to renew its lease. The lease stays
    /// its own until it resigns ([`Epochs::release`]) or the lease has passed. When it resigns, the lease is left to `successor`; see
    /// [`Epochs::keep_changes_since`]. Revoking the current epoch twice is no error; the successor that was named last counts.
    pub fn revoke(&mut self, epoch: u64, successor: Option<&Successor>) -> Result<(), Refusal> {
        self.check_newest(epoch)?;
        self.revoked = self.leader.as_ref().map(|_| Revoked { successor: successor.cloned() });
        Ok(())
    }

    /// Whether the lease is being taken from the leader of `epoch`.
    pub fn is_revoked(&self, epoch: u64) -> bool {
        self.revoked.is_some() && epoch == self.epoch()
    }

    /// Refuses if `node_id` leads and the lease is being taken from it.
    pub fn check_not_taken_from(&self, node_id: &str) -> Result<(), Refusal> {
        match &self.leader {
            Some(leader) if self.revoked.is_some() && leader.node_id == node_id => {
                self.check_leading(self.epoch()).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Whether `epoch` is the current one, led by somebody or not.
    fn check_newest(&self, epoch: u64) -> Result<(), Refusal> {
        if epoch == self.epoch() && epoch > 0 {
            return Ok(());
        }
        self.check_leading(epoch).map(drop)
    }

    /// Leaves the lease, which was released, to `successor` alone for the time being.
    pub fn reserve(&mut self, successor: &Successor, now: Instant) {
        let Successor { node_id, address, time } = successor;
        self.reserved = Some(Reservation { node_id: node_id.clone(), address: address.clone(), until: now + *time });
    }
}
