//! What epochs wrote: where an append, a leader's beginning or a seed belongs, and whether what a node holds is of this log.

use durability_protocol::{is_valid_replid, Code, Known, Refusal};

use super::Epochs;
use crate::shard::rule_switches::{self, Rule};
use crate::store::Epoch;

/// What a node holds that wants to lead: it must be all of the log.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// Where it ends.
    pub end: u64,
    /// Its replication id, if the node tells.
    pub replid: Option<&'a str>,
    /// The newest epoch that it has heard of, if it tells.
    pub seen: Option<u64>,
}

/// What to do with an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Its first `bytes` lie below the log's end, so it was sent before: if the log has the same bytes there, which is to be seen,
    /// acknowledge them when they are durable, and write the rest.
    Overlap {
        /// At least one, unless the append is empty; at most all.
        bytes: usize,
    },
    /// It comes next.
    Write,
}

impl Epochs {
    /// Whether `held` is the log, which ends at `end`. The end alone does not say so: a node that was stopped for a while may hold
    /// other data up to there than the log, which was begun anew meanwhile.
    pub fn check_held(&self, held: Held<'_>, end: u64) -> Result<(), Refusal> {
        if held.end != end {
            return Err(gap(end, "is the end of the log, not", held.end));
        }
        match held.replid {
            Some(replid) if replid != self.replid() => {
                let text = format!("{end} is the end of the log under replication id {}, not {replid}", self.replid());
                Err(Refusal::new(Code::Gap, text))
            }
            _ => Ok(()),
        }
    }

    /// The leader begins to write at `offset`, the log's end, under `replid`. False when it had begun just so already.
    pub fn begin(&mut self, epoch: u64, replid: &str, offset: u64, end: u64) -> Result<bool, Refusal> {
        self.check_leading(epoch)?;
        if !is_valid_replid(replid) {
            return Err(Refusal::new(Code::Err, "a replication id has 40 lower-case hexadecimal digits"));
        }
        let Some(entry) = self.history.last_mut() else { return Err(no_epoch()) };
        if let (Some(began_as), Some(began_at)) = (&entry.replid, entry.first_offset) {
            if began_as == replid && began_at == offset {
                return Ok(false);
            }
            let text = format!("epoch {epoch} began at {began_at} with replication id {began_as} already");
            return Err(Refusal::new(Code::Err, text));
        }
        if offset != end {
            return Err(gap(end, "is the end of the log", offset));
        }
        entry.replid = Some(replid.to_owned());
        entry.first_offset = Some(offset);
        self.own_from = Some(offset);
        Ok(true)
    }

    /// The leader replaces everything by its own data at `offset`. The history before it is not that of the new log,
    /// so nobody can continue from it.
    pub fn seed(&mut self, epoch: u64, replid: &str, offset: u64, end: u64) -> Result<(), Refusal> {
        self.check_leading(epoch)?;
        if !is_valid_replid(replid) {
            return Err(Refusal::new(Code::Err, "a replication id has 40 lower-case hexadecimal digits"));
        }
        if offset < end {
            return Err(gap(end, "is the end of the log; a seed cannot stand before it, at", offset));
        }
        let Some(mut entry) = self.history.pop() else { return Err(no_epoch()) };
        self.own_from = Some(self.own_from.unwrap_or(offset));
        entry.replid = Some(replid.to_owned());
        entry.first_offset = Some(offset);
        self.history = vec![entry];
        Ok(())
    }

    /// What to do with `bytes` bytes at `offset` from the leader of `epoch` when the log ends at `end`.
    pub fn admit(&self, epoch: u64, offset: u64, bytes: usize, end: u64) -> Result<Admission, Refusal> {
        if rule_switches::holds(Rule::FencesAppends) {
            self.check_leading(epoch)?;
        }
        let Some(own_from) = self.own_from else {
            return Err(Refusal::new(Code::Err, format!("epoch {epoch} has not begun: send LOG.BEGIN first")));
        };
        let Some(append_end) = offset.checked_add(bytes as u64) else {
            return Err(Refusal::new(Code::Err, "offset out of range"));
        };
        if offset > end || offset < own_from {
            return Err(gap(end, "is the end of the log, the append is at", offset));
        }
        if offset == end && bytes > 0 {
            return Ok(Admission::Write);
        }
        Ok(Admission::Overlap { bytes: (append_end.min(end) - offset) as usize })
    }

    /// Whether this log, which has the id `log_id` and ends at `end`, still is what a node knows: no healthy log ever goes back, nor goes
    /// on otherwise from below what was durable in it. Its leader may start it anew from a seed; then nothing is known of the
    /// history before.
    pub fn check_known(&self, known: &Known, log_id: &str, end: u64) -> Result<(), Refusal> {
        let Known { log, epoch, replid, durable } = known;
        if log != log_id {
            let text =
                format!("{log_id} is the id of this log, which is another than the one that the node knows, {log}");
            return Err(Refusal::new(Code::OtherLog, text));
        }
        if *durable > end {
            return Err(gap(end, "is the end of the log, which has lost what was durable in it up to", *durable));
        }
        // Not the newest epoch: of one that has not begun nobody knows anything.
        let begun = self.newest_begun().map_or(0, |entry| entry.epoch);
        if *epoch > begun {
            let text = format!("{end} is the end of the log, in which epoch {begun} was the last to write, and was epoch {epoch} before");
            return Err(Refusal::new(Code::Gap, text));
        }
        if replid.is_empty() || self.continues(replid, *durable, 0, end) {
            return Ok(());
        }
        let is_of_it = |entry: &Epoch| entry.replid.as_ref() == Some(replid);
        let oldest = self.history.first().map_or(0, |entry| entry.epoch);
        if self.history.iter().any(is_of_it) || *epoch > oldest {
            let text = format!(
                "{end} is the end of the log, which goes on otherwise than it did from below {durable}, where it was durable as \
                 {replid} in epoch {epoch}"
            );
            return Err(Refusal::new(Code::Gap, text));
        }
        Ok(())
    }

    /// Whether somebody who holds the stream of `replid` up to `position` (exclusive) holds the beginning of this log,
    /// which goes from `base` to `end`, and can simply go on from there.
    ///
    /// A replication id stands for a history up to where the next leader began, all of what was before it included: a
    /// replica that is still behind when it learns a new id is told that id and keeps its position. So there is no
    /// lower bound but the base.
    pub fn continues(&self, replid: &str, position: u64, base: u64, end: u64) -> bool {
        if position < base || position > end {
            return false;
        }
        let began = self.history.iter().filter_map(|entry| Some((entry.replid.as_deref()?, entry.first_offset?)));
        let ends = began.clone().skip(1).map(|(_, first_offset)| first_offset).chain([end]);
        let is_within = |epoch_end| position <= epoch_end || !rule_switches::holds(Rule::ChecksHistory);
        began.zip(ends).any(|((id, _), epoch_end)| id == replid && is_within(epoch_end))
    }
}

fn gap(end: u64, what: &str, offset: u64) -> Refusal {
    Refusal::new(Code::Gap, format!("{end} {what} {offset}"))
}

fn no_epoch() -> Refusal {
    Refusal::new(Code::Fenced, "nobody ever led this shard")
}
