//! Latencies on one connection that carries everything, as a client library with one connection does.
//!
//! Replies of one connection leave in the order of its requests, so a read behind a write that waits for the log waits
//! as well: that is measured with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::load::{fill, Times};
use crate::plan::Plan;
use crate::processes::{Durable, Programs};
use crate::report::Report;
use crate::resp::{self, Reply};
use crate::stream::{self, Measured};
use crate::Result;

/// 50,000 requests a second.
const PER_TICK: usize = 5;
const ACK_DELAY: Duration = Duration::from_millis(1);
const SET_P50_MS: f64 = 1.3;
const ALL_P99_MS: f64 = 1.6;
/// Writes that are measured alone.
const LONE_WRITES: usize = 500;

/// Measures it for `seconds`, and the same on plain Valkey to tell what the machine itself adds.
pub fn measure(programs: &Programs, seconds: u64, report: &mut Report) -> Result<()> {
    report.title("One connection, 50,000 requests/s (80 % GET, 20 % SET of 100 B), log acknowledging after 1 ms");
    let plan = Arc::new(Plan::new(1));
    let plain = programs.start_plain(&[])?;
    fill(&mut plain.connect()?)?;
    remark(report, "plain", &stream::run(plain.connect()?, &plan, PER_TICK, seconds)?);
    drop(plain);

    let mut durable = programs.start_durable(&[])?;
    fill(&mut durable.server.connect()?)?;
    durable.settle()?;
    let at_once = lone_writes(&durable)?;
    durable.log.delay(ACK_DELAY)?;
    let delayed = lone_writes(&durable)?;
    report.remark("a lone SET, log acknowledging at once", &at_once.summary());
    report.remark("a lone SET, log acknowledging after 1 ms", &delayed.summary());
    let added = delayed.percentile(50.0) - at_once.percentile(50.0);
    report.remark("what the delay of 1 ms adds to a lone SET, p50", &format!("{added:.3} ms"));

    let measured = stream::run(durable.server.connect()?, &plan, PER_TICK, seconds)?;
    remark(report, "sync", &measured);
    let latencies = &measured.latencies;
    report.at_most("SET p50", latencies.set.percentile(50.0), SET_P50_MS, "ms");
    report.at_most("p99 of all", latencies.all().percentile(99.0), ALL_P99_MS, "ms");
    Ok(())
}

fn remark(report: &Report, name: &str, measured: &Measured) {
    report.remark(&format!("{name}: GET"), &measured.latencies.get.summary());
    report.remark(&format!("{name}: SET"), &measured.latencies.set.summary());
    report.remark(&format!("{name}: the load generator is late by"), &measured.lateness.summary());
}

/// Latencies of writes of which each waits for the one before.
fn lone_writes(durable: &Durable) -> Result<Times> {
    let mut client = durable.server.connect()?;
    let mut request = Vec::new();
    resp::encode(&mut request, &[b"SET", b"lone", b"value"]);
    let mut times = Times::default();
    for _ in 0..LONE_WRITES {
        let start = Instant::now();
        client.send(&request)?;
        client.expect(Reply::Status(b"OK"))?;
        times.record(start.elapsed());
    }
    Ok(times)
}
