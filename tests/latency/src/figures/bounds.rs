//! What an outage of the log costs beyond what the same clients and keys cost plain Valkey: memory for each client that
//! waits and each key that is dirty, and time of the event loop.

use super::outage::{self, Memory, Probe, Seen, CLIENTS, KEYS};
use crate::process;
use crate::processes::Programs;
use crate::report::Report;
use crate::Result;

const HELD_CLIENT_BYTES: f64 = 1024.0;
const DIRTY_KEY_BYTES: f64 = 200.0;
/// Of what the outage has cost, so much must be given back.
const GIVEN_BACK: f64 = 0.9;
/// A request that waits for nothing costs the same, whoever waits; what is above one is for the machine's noise.
const PROBE_RATIO: f64 = 1.15;
const MAX_CLIENTS: &str = "11000";

/// Measures it.
pub fn measure(programs: &Programs, report: &mut Report) -> Result<()> {
    report.title("Bounds: 10,000 clients and 1,000,000 keys wait for a log that is away for 10 s");
    process::allow_open_files(CLIENTS as u64 + 2000)?;
    let server = programs.start_plain(&["maxclients", MAX_CLIENTS])?;
    let plain = outage::run(&server, None)?;
    drop(server);
    let mut durable = programs.start_durable(&["maxclients", MAX_CLIENTS])?;
    let sync = outage::run(&durable.server, Some(&mut durable.log))?;

    remark_memory(report, "connected", &plain.connected, &sync.connected);
    remark_memory(report, "held", &plain.held, &sync.held);
    remark_memory(report, "held, keys dirty", &plain.dirty, &sync.dirty);
    remark_memory(report, "after the outage", &plain.after, &sync.after);
    let mut admin = durable.server.connect()?;
    report.remark("connections to the log made anew", &admin.durability("log_reconnects")?.to_string());
    report.remark("from the log's return until nothing waits", &format!("{:.3} s", sync.recovery.as_secs_f64()));
    report_memory(report, &plain, &sync);
    for (name, seen) in [("plain", &plain), ("sync", &sync)] {
        remark_probe(report, &format!("{name}: PING"), &seen.ping);
        remark_probe(report, &format!("{name}: GET of a clean key"), &seen.get);
    }
    for (name, [before, held]) in [("PING", &sync.ping), ("GET of a clean key", &sync.get)] {
        report.at_most(
            &format!("{name}: latency with all held, to with none"),
            held.latency / before.latency,
            PROBE_RATIO,
            "",
        );
        report.at_most(&format!("{name}: CPU with all held, to with none"), held.cpu / before.cpu, PROBE_RATIO, "");
    }
    Ok(())
}

/// From the outage's beginning on, what sync mode uses more than plain Valkey, without the bytes that wait for the log.
fn report_memory(report: &mut Report, plain: &Seen, sync: &Seen) {
    let excess = |of: fn(&Seen) -> Memory| {
        let (plain, sync) = (of(plain), of(sync));
        sync.resident as f64 - sync.pending as f64 - plain.resident as f64
    };
    let (connected, held) = (excess(|seen| seen.connected), excess(|seen| seen.held));
    let dirty = excess(|seen| seen.dirty);
    let (per_client, per_key) = ((held - connected) / CLIENTS as f64, (dirty - held) / KEYS as f64);
    report.at_most("bytes for each held client", per_client.round(), HELD_CLIENT_BYTES, "B");
    report.at_most("bytes for each dirty key", per_key.round(), DIRTY_KEY_BYTES, "B");

    // Without what the server itself accounts for: its replication backlog, which it keeps for any replica.
    let of_module = |of: fn(&Seen) -> Memory| {
        let (plain, sync) = (of(plain), of(sync));
        (sync.resident as f64 - sync.used as f64) - (plain.resident as f64 - plain.used as f64)
    };
    let begin = of_module(|seen| seen.connected);
    let cost = of_module(|seen| seen.dirty) - begin;
    let left = of_module(|seen| seen.after) - begin;
    report.at_least("share of the outage's memory that is given back", 1.0 - left / cost, GIVEN_BACK, "");
}

fn remark_memory(report: &Report, name: &str, plain: &Memory, sync: &Memory) {
    let mb = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let figures = |memory: &Memory| format!("{:.1} ({:.1})", mb(memory.resident), mb(memory.used));
    report.remark(
        &format!("{name}: MB resident (used_memory)"),
        &format!("plain {}  sync {}, {:.1} of it pending", figures(plain), figures(sync), mb(sync.pending)),
    );
}

fn remark_probe(report: &Report, name: &str, [before, held]: &[Probe; 2]) {
    let probe = |probe: &Probe| format!("{:.1} us, CPU {:.1} us", probe.latency * 1000.0, probe.cpu);
    report.remark(&format!("{name}: none held, all held"), &format!("{}; {}", probe(before), probe(held)));
}
