//! What this node reports of itself for monitoring. Main thread only.

use std::sync::atomic::Ordering;
use std::time::Instant;

use durability_protocol::{NodeFigures, NodeMode};

use crate::decide::taken_replies;
use crate::decide::write_limit::{Behind, Verdict};
use crate::node::command_filter::refusal::REFUSED_COMMANDS;
use crate::node::{minority, Module, Role};
use crate::server::api;
use crate::server::cluster::bus_messages;
use crate::settings::{self, Mode};

/// The server's event for acknowledgements that take as long as `latency-monitor-threshold` or longer.
const LATENCY_EVENT: &std::ffi::CStr = c"durability-ack";

/// Publishes the figures, if somebody wants them.
#[inline]
pub fn publish_if_wanted(module: &mut Module) {
    if module.shared.monitoring.take_wanted() {
        let now = Instant::now();
        let figures = figures(module, now);
        module.shared.monitoring.publish(now, figures);
    }
}

/// Tells the server's latency monitor how long the acknowledgements of this round took, if one took a millisecond or longer: it counts in
/// milliseconds.
#[inline]
pub fn report_latency(module: &mut Module) {
    if let Some(longest) = module.limits.writes.ack_times.take_longest() {
        if let ms @ 1.. = longest.as_millis() {
            api::add_latency(LATENCY_EVENT, i64::try_from(ms).unwrap_or(i64::MAX));
        }
    }
}

fn figures(module: &mut Module, now: Instant) -> NodeFigures {
    let behind @ Behind { lag, pending_bytes } = module.behind();
    let Module { gate, limits, shared, unlogged, role, mode, .. } = &*module;
    let count = |count: usize| count as u64;
    let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let acks = limits.writes.ack_times.last_minute(now);
    NodeFigures {
        mode: match mode {
            Mode::Sync => NodeMode::Sync,
            Mode::Async => NodeMode::Async,
            Mode::Off => NodeMode::Off,
        },
        // The lease keeper knows.
        age_ms: 0,
        lag_ms: ms(lag),
        max_lag_ms: settings::MAX_LAG_MS.value(),
        pending_bytes,
        held_clients: gate.as_ref().map_or(0, |gate| count(gate.held_clients())),
        held_bytes: taken_replies::total() + bus_messages::waiting().1 as u64,
        dirty_keys: gate.as_ref().map_or(0, |gate| count(gate.dirty_keys())),
        refusing_writes: u64::from(limits.writes.verdict() == Verdict::Refused),
        refusals: limits.writes.refusals(),
        refused_time_ms: ms(limits.writes.refused_for(now)),
        expected_lag_ms: ms(limits.writes.throttle.expected_lag(now, &behind)),
        throttling: u64::from(limits.writes.throttle.is_on()),
        throttled_clients: gate.as_ref().map_or(0, |gate| count(gate.throttled_clients())),
        throttled_writes: limits.writes.throttle.writes,
        throttles: limits.writes.throttle.count(),
        throttled_time_ms: ms(limits.writes.throttle.time(now)),
        refused_commands: REFUSED_COMMANDS.load(Ordering::Relaxed),
        sync_timeouts: limits.timed_out_clients,
        unlogged_writes: unlogged.writes.count,
        suspended: u64::from(*role == Role::Suspended),
        suspensions: shared.suspensions.load(Ordering::Relaxed),
        depositions: shared.depositions.load(Ordering::Relaxed),
        discarded_bytes: shared.discarded_bytes.load(Ordering::Relaxed),
        log_reconnects: shared.log_reconnects.load(Ordering::Relaxed),
        acks: acks.count,
        ack_p50_us: acks.p50_us,
        ack_p99_us: acks.p99_us,
        ack_max_us: acks.max_us,
        majority: minority::sees_majority().map_or(0, |sees| if sees { 1 } else { 2 }),
    }
}
