//! Whether what is missing in the end may be missing. In sync mode nothing that was acknowledged may. In async mode it may be the
//! youngest of what one leader acknowledged, no more than the limit on the log's lag, and every write is whole.
//!
//! As in the judge of `tests/crash`, all that is compared is certain: a write that was acknowledged before another was sent ran
//! before it, and nothing is concluded from times that overlap.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Result};

use crate::journal::{Found, Manner, Write, Written};
use crate::leader::Term;
use crate::system::Mode;
use crate::views::View;

/// The server looks at its lag once in each round of its event loop, and there is a round each 100 ms at least.
const ROUND: Duration = Duration::from_millis(100);

/// Writes that were acknowledged and are missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// How many.
    pub writes: usize,
    /// From the acknowledgement of the oldest to the youngest write that the same leader acknowledged, the longest of all leaders.
    pub span: Duration,
}

impl Found {
    /// The numbers that a client wrote and that are there, if every write is there as a whole or not at all.
    fn numbers(&self, written: &Written) -> Result<HashSet<u64>> {
        let writer = written.writer;
        let in_journal = || self.journal.iter().filter(|(of, _)| *of == writer).map(|(_, number)| *number);
        let [first, second] = &self.sets[writer];
        Ok(match written.manner {
            Manner::Push => in_journal().collect(),
            Manner::Add => first.clone(),
            Manner::Transaction => {
                let numbers: HashSet<u64> = in_journal().collect();
                for other in [first, second] {
                    let torn = numbers.symmetric_difference(other).min();
                    ensure!(torn.is_none(), "writer {writer}: a part of the transaction of {torn:?} is there");
                }
                numbers
            }
        })
    }

    fn check_doubles(&self) -> Result<()> {
        let mut places = HashMap::new();
        for (place, entry) in self.journal.iter().enumerate() {
            if let Some(before) = places.insert(entry, place) {
                bail!("{entry:?} is in the journal twice, at {} and {}", before + 1, place + 1);
            }
        }
        Ok(())
    }
}

/// What the clients of one leader wrote.
#[derive(Default)]
struct EpochWrites<'a> {
    there: Vec<(&'a Written, &'a Write)>,
    missing: Vec<(&'a Written, &'a Write)>,
}

/// Judges what was written by what is there in the end.
///
/// # Errors
/// Something is missing that may not be, or is there that nobody wrote.
pub fn judge(all: &[Written], found: &Found, mode: Mode, limit: Duration) -> Result<Loss> {
    found.check_doubles()?;
    let mut epochs: BTreeMap<Term, EpochWrites> = BTreeMap::new();
    for written in all {
        let mut numbers = found.numbers(written)?;
        for write in &written.writes {
            let of_epoch = epochs.entry(write.term).or_default();
            if numbers.remove(&write.number) {
                of_epoch.there.push((written, write));
            } else if write.answered.is_some() {
                of_epoch.missing.push((written, write));
            }
        }
        // The last one may have been refused again and again until the end.
        ensure!(numbers.is_empty(), "writer {}: {numbers:?} is there, and was refused or never sent", written.writer);
    }
    let mut loss = Loss::default();
    for (term, of_epoch) in &epochs {
        of_epoch.check_positions(found)?;
        let Some(&(written, oldest)) = of_epoch.missing.iter().min_by_key(|(_, write)| write.answered) else {
            continue;
        };
        let what = format!("writer {}: {} of {term} was acknowledged and is missing", written.writer, oldest.number);
        ensure!(mode == Mode::Async, "{what}, and {} others", of_epoch.missing.len() - 1);
        let since = oldest.answered.unwrap_or(oldest.invoked);
        of_epoch.check_no_hole(since, &what)?;
        let span = of_epoch.span(since);
        ensure!(span <= limit + ROUND, "{what}, and {span:.0?} later writes were acknowledged; the limit is {limit:?}");
        loss.writes += of_epoch.missing.len();
        loss.span = loss.span.max(span);
    }
    Ok(loss)
}

impl EpochWrites<'_> {
    /// What is there of the journal is a first part of what this leader executed, in the order in which it did.
    fn check_positions(&self, found: &Found) -> Result<()> {
        let mut first_missing = usize::MAX;
        for (_, write) in &self.missing {
            first_missing = first_missing.min(write.position.unwrap_or(usize::MAX));
        }
        for (written, write) in &self.there {
            let Some(position) = write.position else { continue };
            let entry = (written.writer, write.number);
            ensure!(
                found.journal.get(position - 1) == Some(&entry),
                "{entry:?} was written at {position} of the journal, and is there, but not at that place"
            );
            ensure!(
                position < first_missing,
                "{entry:?} is there at {position} of the journal, and what {} wrote at {first_missing} is missing",
                write.term
            );
        }
        Ok(())
    }

    /// Nothing of this leader is there that was sent after something that is missing was acknowledged.
    fn check_no_hole(&self, missing_since: Instant, what: &str) -> Result<()> {
        let Some((written, youngest)) = self.there.iter().max_by_key(|(_, write)| write.invoked) else { return Ok(()) };
        ensure!(
            youngest.invoked <= missing_since,
            "{what}, but writer {}: {}, sent {:.3?} after that, is there",
            written.writer,
            youngest.number,
            youngest.invoked - missing_since
        );
        Ok(())
    }

    fn span(&self, missing_since: Instant) -> Duration {
        let all = self.there.iter().chain(&self.missing);
        let last = all.filter(|(_, write)| write.answered.is_some()).map(|(_, write)| write.invoked).max();
        last.map_or(Duration::ZERO, |last| last.saturating_duration_since(missing_since))
    }
}

/// `found` is by place. What followers show is durable, so nothing of it is ever missing. In sync mode that holds for leaders as well.
///
/// # Errors
/// Something is missing.
pub fn judge_views(views: &[View], found: &[Found], mode: Mode) -> Result<()> {
    for view in views.iter().filter(|view| mode == Mode::Sync || view.role == "follower") {
        ensure!(
            view.is_beginning_of(&found[view.place].journal),
            "node {} showed as {} {} entries of the journal of place {}, the last {:?}; in the end there are other ones",
            view.node,
            view.role,
            view.length,
            view.place,
            view.tail
        );
    }
    Ok(())
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
