//! What the main thread does about time: it refuses writes at the limit, closes clients that wait too long, and tells the lag.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use valkey_module::logging::{log_notice, log_warning};

use crate::decide::gate::Connections;
use crate::decide::held_memory::{class, Held};
use crate::decide::taken_replies;
use crate::decide::valve::Group;
use crate::decide::write_limit::{Behind, Change, Limits};
use crate::exchange::Task;
use crate::hooks;
use crate::node::{Module, Role};
use crate::server::{api, held_table};
use crate::settings;

impl Module {
    /// The event loop wakes.
    #[inline]
    pub fn woke(&mut self) {
        self.look_at_lease();
        if self.role != Role::Leader {
            return;
        }
        let now = Instant::now();
        let offset = api::replication_offset(&self.ctx);
        if offset != self.bound.offset() {
            // With I/O threads, commands run after modules were told that the loop sleeps. These ran in the last round.
            self.bound.look(now, offset, self.shared.acknowledged());
            self.look_for_thread_writes();
        } else if self.commands.has_others() && hooks::has_thread_written() {
            // A thread of another module's wrote, and the stream stands still.
            self.found_unlogged("");
        }
        self.bound.woke(now);
    }

    /// The stream moved while this thread slept. If that was not by commands which were told, threads of other modules wrote;
    /// nobody knows what.
    fn look_for_thread_writes(&mut self) {
        let has_written = self.commands.has_others() && hooks::has_thread_written();
        if !self.commands.has_others() || !self.is_listening {
            return;
        }
        if let Some(gate) = self.gate.as_mut().filter(|gate| has_written || !gate.has_open_writes()) {
            gate.write_all();
        }
    }

    /// The stream stands at `offset`, and the log has everything up to `durable` (see [`crate::decide::write_limit::Bound::look`]). Refuses
    /// writes at a limit, and takes them again when the log has caught up to half of it.
    pub fn look_at_bound(&mut self, now: Instant, offset: u64, durable: Option<u64>) {
        let behind = self.bound.look(now, offset, durable);
        let change = self.bound.judge(now, &behind, &Limits::configured());
        match change {
            Change::None => return,
            Change::Outlook => {}
            Change::Refusing => log_warning(format!(
                "durability: refusing writes: the log is {} ms and {} bytes behind; reads go on",
                behind.lag.as_millis(),
                behind.pending_bytes
            )),
            Change::Resumed(time) => {
                log_notice(format!("durability: taking writes again after {:.1} s", time.as_secs_f64()));
            }
        }
        self.update_filter();
    }

    /// As [`Module::look_at_bound`], between two rounds of the event loop.
    pub fn look_at_bound_now(&mut self) {
        let offset = api::replication_offset(&self.ctx);
        let durable = self.shared.acknowledged();
        self.look_at_bound(Instant::now(), offset, durable);
    }

    /// How far the log is behind now; nothing unless this node leads.
    pub fn behind(&mut self) -> Behind {
        let now = Instant::now();
        if !matches!(self.role, Role::Leader | Role::Suspended) {
            self.bound.look_idle(now);
            return Behind { lag: Duration::ZERO, pending_bytes: 0 };
        }
        let offset = api::replication_offset(&self.ctx);
        self.bound.look(now, offset, self.shared.acknowledged())
    }

    /// Closes clients that the log has let wait for longer than `durability.sync-timeout-ms`.
    pub fn close_late(&mut self, now: Instant) {
        let Some(gate) = &mut self.gate else { return };
        let timeout_ms = settings::SYNC_TIMEOUT_MS.load(Ordering::Relaxed).unsigned_abs();
        if timeout_ms == 0 {
            self.timeouts.forget();
            return;
        }
        if self.timeouts.is_new() {
            // The timeout was set while clients wait: for them it counts from now on.
            gate.waiting_clients().for_each(|(client, group)| self.timeouts.held(client, group));
        }
        let mut late = self.timeouts.late(now, Duration::from_millis(timeout_ms), gate.released());
        // Not those that are gone, or were closed for an earlier reply: nothing ever leaves them.
        late.retain(|client| {
            gate.connections.mark(*client).is_some_and(|mark| mark > gate.released() && mark != Group::MAX)
        });
        if late.is_empty() {
            return;
        }
        self.timed_out_clients += late.len() as u64;
        for client in &late {
            gate.connections.close(*client);
        }
        log_warning(format!(
            "durability: closed {} clients without an answer: the log has not acknowledged within {timeout_ms} ms what \
             they wait for",
            late.len()
        ));
    }

    /// Has the server offer the replies of clients that have waited for a while: the log is slow then, and large ones are taken.
    pub fn offer_again(&mut self, now: Instant) {
        let Some(gate) = &mut self.gate else { return };
        if let Some(newest) = self.held_bound.offers_again(now, gate.newest_closed_group()) {
            let count = gate.offer_again(newest);
            taken_replies::set_log_is_slow(count > 0);
            self.held_bound.offered_again(now, count);
        }
    }

    /// Replies are in the module's memory: has [`Self::close_those_with_most`] called with the server's limits of this moment, if it is
    /// time for that.
    pub fn look_at_held_bytes(&mut self, now: Instant) {
        let is_too_much = taken_replies::total() > settings::MAX_HELD_BYTES.load(Ordering::Relaxed).unsigned_abs();
        if self.gate.is_some() && self.held_bound.is_time_to_look(now, is_too_much) {
            self.shared.send(Task::LookAtHeldBytes);
        }
    }

    /// Closes clients that have too many replies in the module's memory: those with most, or that have reached the server's own limit for
    /// the output of one client, which `output_limits` tells as `CONFIG GET` does.
    pub fn close_those_with_most(&mut self, now: Instant, output_limits: &str) {
        self.held_bound.looked(output_limits);
        let Some(gate) = &mut self.gate else { return };
        let limit = settings::MAX_HELD_BYTES.load(Ordering::Relaxed).unsigned_abs();
        let held: Vec<Held> = held_table::taken_bytes()
            .into_iter()
            .map(|(client, bytes)| Held { client, bytes, class: class(api::client_flags(client).is_subscriber) })
            .collect();
        let closing = self.held_bound.closing(now, &held, limit);
        for client in &closing {
            gate.close(*client);
        }
        if let Some(count) = self.held_bound.count_to_log(now) {
            log_warning(format!(
                "durability: closed {count} clients without an answer: they had the most of the replies that wait for the log, beyond \
                 durability.max-held-bytes ({limit}), or more than client-output-buffer-limit allows"
            ));
        }
    }
}
