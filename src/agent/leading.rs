//! What the agent does while its node leads: it ships the stream, and opens the tap again when it ends. Agent's thread.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use valkey_module::logging::log_notice;

use crate::agent::acquire::Leadership;
use crate::agent::initial_snapshot;
use crate::agent::interrupt::Interrupt;
use crate::agent::retry::{retry_waits, RETRY_TO};
use crate::agent::state::Agent;
use crate::agent::stream_check::StreamCheck;
use crate::agent::tap::{self, Start, Tap};
use crate::decide::unacked::Backlog;
use crate::shipper::{self, Ended};

impl Agent {
    /// Leads and ships until something ends it. `wanted` is what [`Shared::snapshots_wanted`](crate::exchange::Shared::snapshots_wanted) was
    /// before the tap was opened.
    ///
    /// # Errors
    /// What ended it.
    pub fn lead(&mut self, leadership: Leadership, wanted: u64) -> Result<Infallible, Interrupt> {
        let Leadership { epoch, mut replid, mut tap, mut backlog, begins_with_snapshot } = leadership;
        self.was_off = false;
        self.gives_way = false;
        self.holds_all_of = Some(epoch);
        self.shared.epoch.store(epoch, Ordering::Relaxed);
        self.shared.awaits_snapshot.store(begins_with_snapshot, Ordering::Release);
        self.publish(&backlog);
        self.shared.set_last_error("");
        self.control.serve_as_leader(epoch);
        let mut check = StreamCheck::new(Arc::clone(&self.shared.stream_rules));
        let mut tap_is_lost = false;
        if begins_with_snapshot {
            // The node serves meanwhile. Nothing that it writes is durable before the snapshot is.
            match initial_snapshot::start_log(&self.shared, &tap, epoch, &replid, backlog.end()) {
                Ok(()) => self.shared.snapshots_taken.store(wanted, Ordering::Release),
                Err(why) => {
                    self.shared.try_again_after(&why);
                    tap_is_lost = true;
                }
            }
        }
        loop {
            if !tap_is_lost {
                if let Some(durable) = self.shared.durable() {
                    self.shared.remember(|memory, _| memory.leads(epoch, &replid, durable));
                }
                let why = match shipper::ship(self, epoch, &mut tap, &mut backlog, &mut check) {
                    Ended::TapLost(why) => why,
                    Ended::Interrupted(interrupt) => return Err(interrupt),
                };
                log_notice(format!("durability: the tap ended ({why}); opening it again at offset {}", backlog.end()));
            }
            tap_is_lost = false;
            tap = self.resume(epoch, &mut replid, &mut backlog)?;
            self.publish(&backlog);
        }
    }

    /// Opens the tap where `backlog` ends, however long it takes. If the server does not have the next byte any more, or the log never got
    /// its initial snapshot, the log starts anew from a snapshot, which holds what lies between.
    ///
    /// # Errors
    /// Something else is to be done first.
    fn resume(&mut self, epoch: u64, replid: &mut String, backlog: &mut Backlog) -> Result<Tap, Interrupt> {
        let mut waits = retry_waits();
        loop {
            self.shared.tap_reconnects.fetch_add(1, Ordering::Relaxed);
            match self.try_resume(epoch, replid, backlog) {
                Ok(tap) => return Ok(tap),
                // The node still holds everything, so it goes on leading and tries again.
                Err(Interrupt::Failed(why)) => self.shared.try_again_after(&why),
                Err(other) => return Err(other),
            }
            self.control.pause(waits.next())?;
        }
    }

    fn try_resume(&mut self, epoch: u64, replid: &mut String, backlog: &mut Backlog) -> Result<Tap, Interrupt> {
        // What is found missing after this moment may be missing in the snapshot as well.
        let wanted = self.shared.snapshots_wanted.load(Ordering::Acquire);
        let needs_snapshot = self.shared.awaits_snapshot.load(Ordering::Relaxed) || self.shared.lacks_snapshot();
        let position = (!needs_snapshot).then_some((replid.as_str(), backlog.end()));
        let (tap, start) = tap::open_anew(&mut self.control, position)?;
        if let Start::Snapshot { replid: new_replid, offset } = start {
            if let Err(why) = initial_snapshot::start_log(&self.shared, &tap, epoch, &new_replid, offset) {
                self.shared.try_again_after(&why);
                // The server forks for each snapshot.
                self.control.pause(RETRY_TO)?;
                return Err(Interrupt::Failed(why));
            }
            *replid = new_replid;
            *backlog = Backlog::new(offset);
            self.publish(backlog);
            self.shared.snapshots_taken.store(wanted, Ordering::Release);
            self.last_snapshot = Some(Instant::now());
        }
        Ok(tap)
    }
}
