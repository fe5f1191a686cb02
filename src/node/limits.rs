//! Limits that protect a leader from a slow log: writes are refused when too much could be lost, clients that wait too long are closed, and
//! so are those whose replies take too much memory. Main thread only.

use std::time::{Duration, Instant};

use valkey_module::logging::{log_notice, log_warning};

use crate::decide::gate::{Connections, Gate};
use crate::decide::held_memory::{class, HeldMemory, HeldReplies};
use crate::decide::reply_timeouts::ReplyTimeouts;
use crate::decide::taken_replies;
use crate::decide::valve::Group;
use crate::decide::write_limit::{Change, Limits, WriteLimit};
use crate::server::connections::ServerConnections;
use crate::server::{api, held_table};
use crate::settings;

/// How far the log may be behind, as configured.
pub fn configured_limits() -> Limits {
    Limits {
        lag: Duration::from_millis(settings::MAX_LAG_MS.value()),
        pending_bytes: settings::MAX_PENDING_BYTES.value(),
    }
}

/// How far the log is behind, and what follows from that for clients.
pub struct ClientLimits {
    /// How far the log is behind, and whether writes are refused for it.
    pub writes: WriteLimit,
    /// Since when clients wait.
    pub timeouts: ReplyTimeouts,
    /// How many clients were closed because they waited too long.
    pub timed_out_clients: u64,
    /// The memory of replies that wait.
    pub held_memory: HeldMemory,
}

impl ClientLimits {
    /// Nothing is written, and nobody waits. `now` begins the history of the lag.
    pub fn new(now: Instant) -> Self {
        ClientLimits {
            writes: WriteLimit::new(now),
            timeouts: ReplyTimeouts::default(),
            timed_out_clients: 0,
            held_memory: HeldMemory::default(),
        }
    }

    /// The stream stands at `offset`, and the log has everything up to `durable` (see [`WriteLimit::look`]). Refuses writes at a limit, and
    /// takes them again when the log has caught up to half of it; with `may_throttle`, slows writers down before that. Returns whether the
    /// verdict changed.
    pub fn judge_writes(&mut self, now: Instant, offset: u64, durable: Option<u64>, may_throttle: bool) -> bool {
        let behind = self.writes.look(now, offset, durable);
        match self.writes.judge(now, &behind, &configured_limits(), may_throttle) {
            Change::None => return false,
            Change::Outlook => {}
            Change::Refusing => log_warning(format!(
                "durability: refusing writes: the log is {} ms and {} bytes behind; reads go on",
                behind.lag.as_millis(),
                behind.pending_bytes
            )),
            Change::Resumed(time) => {
                log_notice(format!("durability: taking writes again after {:.1} s", time.as_secs_f64()));
            }
            Change::Throttling => log_notice(format!(
                "durability: slowing writers down to the log's pace: it is {} ms behind, and takes {} ms for what it lacks",
                behind.lag.as_millis(),
                self.writes.throttle.expected_lag(now, &behind).as_millis()
            )),
            Change::Throttled(time) => {
                log_notice(format!("durability: writers were slowed down for {:.1} s", time.as_secs_f64()));
            }
        }
        true
    }

    /// Closes clients that have waited for the log for longer than `durability.sync-timeout-ms`.
    pub fn close_late(&mut self, gate: &mut Gate<ServerConnections>, now: Instant) {
        let timeout_ms = settings::SYNC_TIMEOUT_MS.value();
        if timeout_ms == 0 {
            self.timeouts.forget();
            return;
        }
        if self.timeouts.is_new() {
            // The timeout was set while clients wait: it counts from now on for them.
            gate.waiting_clients().for_each(|(client, group)| self.timeouts.held(client, group));
        }
        let mut late = self.timeouts.late(now, Duration::from_millis(timeout_ms), gate.released());
        // Clients that are gone, or were closed for an earlier reply, do not count: nothing ever leaves them.
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

    /// Has the server offer the replies of clients that have waited for a while: the log is slow then, and large replies are taken over.
    pub fn offer_again(&mut self, gate: &mut Gate<ServerConnections>, now: Instant) {
        if let Some(newest) = self.held_memory.offers_again(now, gate.newest_closed_group()) {
            let count = gate.offer_again(newest);
            taken_replies::set_log_is_slow(count > 0);
            self.held_memory.offered_again(now, count);
        }
    }

    /// Replies are in the module's memory. Returns whether it is time for [`ClientLimits::close_those_with_most`], with the server's own
    /// limits of this moment.
    pub fn is_memory_due(&mut self, now: Instant) -> bool {
        let is_too_much = taken_replies::total() > settings::MAX_HELD_BYTES.value();
        self.held_memory.is_time_to_look(now, is_too_much)
    }

    /// Closes clients that have too many replies in the module's memory: those with most, or those that have reached the server's own limit
    /// for the output of one client. `output_limits` is the value of the server's `client-output-buffer-limit`.
    pub fn close_those_with_most(&mut self, gate: Option<&mut Gate<ServerConnections>>, output_limits: &str) {
        let now = Instant::now();
        self.held_memory.looked(output_limits);
        let Some(gate) = gate else { return };
        let limit = settings::MAX_HELD_BYTES.value();
        let held: Vec<HeldReplies> = held_table::taken_bytes()
            .into_iter()
            .map(|(client, bytes)| HeldReplies { client, bytes, class: class(api::client_flags(client).is_subscriber) })
            .collect();
        for client in self.held_memory.closing(now, &held, limit) {
            gate.close(client);
        }
        if let Some(count) = self.held_memory.count_to_log(now) {
            log_warning(format!(
                "durability: closed {count} clients without an answer: they had the most of the replies that wait for the log, beyond \
                 durability.max-held-bytes ({limit}), or more than client-output-buffer-limit allows"
            ));
        }
    }
}
