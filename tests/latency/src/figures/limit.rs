//! What async mode promises when the log stops: writes are accepted until the limit and refused from then on, reads go on,
//! writes are accepted again when the log has caught up, and what was accepted is in the log.

use std::ops::Range;
use std::time::Duration;

use super::stoppage::{self, Seen};
use crate::load::fill;
use crate::numbered::{self, Found};
use crate::paced::Course;
use crate::processes::{Durable, Log, Programs};
use crate::report::Report;
use crate::Result;

/// The limit is kept to so many seconds.
const PRECISION_S: f64 = 0.1;
const READ_P99_RATIO: f64 = 1.5;
const RESUMPTION_S: f64 = 1.0;
const SECOND: Duration = Duration::from_secs(1);

/// Measures it after `seconds` of normal load, at a limit of `max_lag_ms`.
pub fn measure(programs: &Programs, seconds: u64, max_lag_ms: u64, report: &mut Report) -> Result<()> {
    report.title(&format!(
        "Limit: async mode, 20,000 SET/s and 5,000 GET/s, log stopped until writes are refused at {max_lag_ms} ms"
    ));
    let limit = Duration::from_millis(max_lag_ms);
    let durable = programs.start_limited("async", max_lag_ms, &[])?;
    let mut admin = durable.server.connect()?;
    fill(&mut admin)?;
    durable.settle()?;
    let refusals = admin.durability("refusals")?;
    let seen = stoppage::run(&durable, limit, Duration::from_secs(seconds))?;
    let refusals = admin.durability("refusals")? - refusals;
    durable.settle()?;
    let offset = admin.durability("durable_offset")?;

    let refused = seen.refused().ok_or("no write was refused")?;
    report_writes(report, &seen, limit, refused);
    report_reads(report, &seen, refused);
    report_resumption(report, &seen, refusals)?;
    let reconnects = admin.durability("log_reconnects")?;
    report.remark("connections to the log made anew", &reconnects.to_string());

    let Durable { server, log } = durable;
    // It is killed.
    drop(server);
    report_found(report, &look_into_log(programs, &log, offset, &seen)?);
    Ok(())
}

fn report_writes(report: &mut Report, seen: &Seen, limit: Duration, refused: Duration) {
    let moments = &seen.moments;
    remark_answers(report, seen, "before the stop", Duration::ZERO..moments.stopped);
    remark_answers(report, seen, "from the stop to the first refusal", moments.stopped..refused);
    remark_answers(report, seen, "from there until the log goes on", refused..moments.continued);
    let accepting_s = seconds_between(moments.stopped, refused);
    let limit_s = limit.as_secs_f64();
    report.at_least("from the stop to the first refusal", accepting_s, limit_s - PRECISION_S, "s");
    report.at_most("from the stop to the first refusal", accepting_s, limit_s + PRECISION_S, "s");
    let accepted = seen.accepted_while_refused();
    report.at_most("writes accepted after it, until the log goes on", accepted as f64, 0.0, "");
}

fn report_reads(report: &mut Report, seen: &Seen, refused: Duration) {
    let moments = &seen.moments;
    let before = seen.before();
    let accepting = moments.stopped..refused;
    let refusing = refused..moments.continued;
    let phases = [
        ("before the stop", before.clone()),
        ("log stopped, writes accepted", accepting.clone()),
        ("log stopped, writes refused", refusing.clone()),
        ("log catching up", moments.continued..moments.caught_up),
        ("afterwards", moments.caught_up..moments.ended),
    ];
    for (name, phase) in phases {
        let (latency, lateness) = (Course::latency, Course::lateness);
        report.remark(&format!("GET, {name}"), &seen.read_times(phase.clone(), latency).summary());
        report.remark("  of it, the load generator is late by", &seen.read_times(phase.clone(), lateness).summary());
        if phase.end >= phase.start + SECOND {
            report.remark("  p99 in ms, by second", &p99_by_second(seen, phase));
        }
    }
    if let Some(answer) = &seen.first_failure {
        report.remark("the first GET that failed", answer);
    }
    report.remark("GETs answered", &seen.reads.len().to_string());
    report.at_most("GETs that failed", seen.failed_reads as f64, 0.0, "");
    let p99 = |phase| read_p99(seen, phase);
    let normal = p99(before);
    report.at_most("GET p99, writes accepted, to before the stop", p99(accepting) / normal, READ_P99_RATIO, "");
    report.at_most("GET p99, writes refused, to before the stop", p99(refusing) / normal, READ_P99_RATIO, "");
}

fn report_resumption(report: &mut Report, seen: &Seen, refusals: u64) -> Result<()> {
    let moments = &seen.moments;
    let resumed = seen.resumed().ok_or("no write was accepted again")?;
    let since = |moment| seconds_between(moments.continued, moment);
    let caught_up_s = since(moments.caught_up);
    let backlog_mb = seen.backlog_bytes as f64 / 1e6;
    report.remark("bytes that waited when the log went on", &seen.backlog_bytes.to_string());
    report.remark("from there until the lag was half of the limit", &format!("{:.3} s", since(moments.half)));
    report.remark("from there until a write was accepted", &format!("{:.3} s", since(resumed)));
    report.remark("from there until the log had what waited", &format!("{caught_up_s:.3} s"));
    report.remark("rate at which it took it", &format!("{:.1} MB/s", backlog_mb / caught_up_s));
    // The lag is looked at now and then, so the write may have been seen first.
    let resumption_s = seconds_between(moments.half, resumed).max(0.0);
    report.at_most("from half of the limit to the first accepted write", resumption_s, RESUMPTION_S, "s");
    let refused = seen.refused_after_resumption();
    report.at_most("writes refused after it", refused as f64, 0.0, "");
    report.at_least("times that writes began to be refused", refusals as f64, 1.0, "");
    report.at_most("times that writes began to be refused", refusals as f64, 1.0, "");
    Ok(())
}

fn report_found(report: &mut Report, found: &Found) {
    report.remark("writes that were accepted, and are in the log", &found.accepted.to_string());
    report.at_most("writes that were accepted, and are not", found.missing as f64, 0.0, "");
    report.at_most("writes that were refused, and are in the log", found.refused as f64, 0.0, "");
}

/// What a fresh server finds that follows the log up to `offset`.
fn look_into_log(programs: &Programs, log: &Log, offset: u64, seen: &Seen) -> Result<Found> {
    let replica = programs.start_replica(log, offset)?;
    numbered::look_for(&mut replica.connect()?, &seen.writes)
}

fn read_p99(seen: &Seen, phase: Range<Duration>) -> f64 {
    seen.read_times(phase, Course::latency).percentile(99.0)
}

/// Tells what lasts from what happens once. Only whole seconds.
fn p99_by_second(seen: &Seen, phase: Range<Duration>) -> String {
    let seconds = phase.end.saturating_sub(phase.start).as_secs() as u32;
    let starts = (0..seconds).map(|second| phase.start + SECOND * second);
    let p99s: Vec<_> = starts.map(|start| format!("{:.2}", read_p99(seen, start..start + SECOND))).collect();
    p99s.join("  ")
}

fn remark_answers(report: &Report, seen: &Seen, name: &str, phase: Range<Duration>) {
    let seconds = seconds_between(phase.start, phase.end);
    let (accepted, refused) = seen.answers(phase);
    let rate = (accepted + refused) as f64 / seconds;
    report.remark(
        &format!("SET, {name}"),
        &format!("{accepted} accepted, {refused} refused in {seconds:.3} s ({rate:.0}/s)"),
    );
}

fn seconds_between(from: Duration, to: Duration) -> f64 {
    to.as_secs_f64() - from.as_secs_f64()
}
