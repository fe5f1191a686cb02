//! Appends that were sent before, on a connection that has broken: known by their bytes, as an offset does not tell a log from
//! another one.

use std::time::Duration;

use bytes::{Buf, Bytes};
use durability_protocol::{Code, Refusal};

use super::rule_switches::{self, Rule};
use super::{Shard, Ticket};
use crate::base::log_throttle::say;
use crate::store::{LogReader, ReadError};

/// The longest that bytes are waited for that were accepted before and are not durable: they cannot be read until then.
const DURABLE_AT_MOST: Duration = Duration::from_secs(10);
/// The most that is compared at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// What became of an append.
#[derive(Debug)]
pub enum Submitted {
    /// It is in the log when the ticket says so.
    Accepted(Ticket),
    /// It begins below the log's end, so nothing was done yet.
    Overlaps(Overlap),
}

/// An append that begins below the log's end.
#[derive(Debug)]
pub struct Overlap {
    pub(super) epoch: u64,
    pub(super) offset: u64,
    pub(super) payload: Bytes,
    /// So many of its bytes lie below the end.
    pub(super) bytes: usize,
    /// [`Progress::refusals`](super::Progress::refusals) when that was so.
    pub(super) refusals: u64,
}

impl Shard {
    /// Accepts an append that begins below the log's end if the log has the same bytes there: those are not written again. Waits until
    /// they are durable, and reads them; this happens only after a leader has connected anew.
    ///
    /// # Errors
    /// [`Code::Gap`] if the log has other bytes there: then it is another one, or its leader's stream is. Else as [`Shard::append`].
    pub async fn append_overlapping(&self, mut overlap: Overlap) -> Result<Ticket, Refusal> {
        loop {
            let until = overlap.offset + overlap.bytes as u64;
            let ticket = Ticket { until, refusals: overlap.refusals };
            self.wait_readable(ticket).await?;
            self.compare(overlap.offset, overlap.payload.slice(..overlap.bytes)).await?;
            overlap.payload.advance(overlap.bytes);
            if overlap.payload.is_empty() {
                // A restart of the log from a seed leaves what was durable before as durable.
                return Ok(ticket);
            }
            match self.append(overlap.epoch, until, overlap.payload)? {
                Submitted::Accepted(ticket) => return Ok(ticket),
                // Another connection of the same leader was faster.
                Submitted::Overlaps(next) => overlap = next,
            }
        }
    }

    async fn wait_readable(&self, ticket: Ticket) -> Result<(), Refusal> {
        match self.environment.timeout(DURABLE_AT_MOST, self.notifier().wait_durable(ticket)).await {
            Some(true) => Ok(()),
            Some(false) => {
                self.check_not_failed()?;
                Err(Refusal::new(Code::NoSpace, "what was sent before was refused for want of space; send it again"))
            }
            None => Err(Refusal::new(Code::Err, "what was sent before is not durable yet; send it again")),
        }
    }

    /// Whether the log has `expected` at `offset`, all of which is durable. What was dropped, because a snapshot stands above it, cannot be
    /// compared any more: that snapshot was made of what was there.
    async fn compare(&self, offset: u64, expected: Bytes) -> Result<(), Refusal> {
        let dropped = self.store.manifest().base.saturating_sub(offset).min(expected.len() as u64);
        let (offset, expected) = (offset + dropped, expected.slice(dropped as usize..));
        if expected.is_empty() || !rule_switches::holds(Rule::ComparesOverlaps) {
            return Ok(());
        }
        let store = self.store.clone();
        let compared = self.environment.run_blocking(move || first_difference(store.reader(offset)?, &expected)).await;
        match compared {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(at))) => {
                let text = format!(
                    "{} is the end of the log, which has other bytes at {at} than the append at {offset}",
                    self.notifier().durable()
                );
                say!(self.lines, warn, "shard {}: an append is refused: {text}", self.name);
                Err(Refusal::new(Code::Gap, text))
            }
            // It was dropped meanwhile.
            Ok(Err(ReadError::Trimmed { .. })) => {
                Err(Refusal::new(Code::Err, "the log was shortened meanwhile; send it again"))
            }
            Ok(Err(error)) => {
                Err(Refusal::new(Code::Err, format!("cannot compare with what was sent before: {error}")))
            }
            Err(error) => Err(Refusal::new(Code::Err, format!("cannot compare with what was sent before: {error}"))),
        }
    }
}

/// Where the log has another byte than `expected`, which begins where `reader` is. Blocks on I/O.
fn first_difference(mut reader: Box<dyn LogReader>, mut expected: &[u8]) -> Result<Option<u64>, ReadError> {
    let limit = reader.offset() + expected.len() as u64;
    while !expected.is_empty() {
        let offset = reader.offset();
        let found = reader.read(limit, CHUNK_BYTES)?;
        let (wanted, rest) = expected.split_at(found.len());
        if found != wanted {
            let same = found.iter().zip(wanted).take_while(|(found, wanted)| found == wanted).count();
            return Ok(Some(offset + same as u64));
        }
        expected = rest;
    }
    Ok(None)
}
