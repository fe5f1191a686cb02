//! An outage of the log with as many clients and dirty keys as there may be, and the same without a log.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::load::Times;
use crate::process::{main_thread_time, resident_bytes};
use crate::processes::{wait_until, Log, Server};
use crate::resp::{self, Reply};
use crate::Result;

/// Clients that wait.
pub const CLIENTS: usize = 10_000;
/// Keys that are written meanwhile.
pub const KEYS: usize = 1_000_000;
const KEYS_PER_COMMAND: usize = 100;
const VALUE: [u8; 100] = [b'x'; 100];
/// The log acknowledges nothing for at least so long.
const OUTAGE: Duration = Duration::from_secs(10);
/// The server shrinks the buffers of each client once a second.
const SETTLE: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(60);
/// Requests of a probe: batches of so many.
const BATCHES: usize = 9;
const BATCH: usize = 2000;

/// What the server uses, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Of the machine's memory.
    pub resident: u64,
    /// As the server's allocator counts.
    pub used: u64,
    /// Bytes of the stream that the log has not acknowledged.
    pub pending: u64,
}

/// What a request costs that waits for nothing.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// Median latency in ms.
    pub latency: f64,
    /// CPU time of the server's main thread for each, in microseconds: the median of the batches.
    pub cpu: f64,
}

/// What was seen.
pub struct Seen {
    /// When all are connected, and nothing was written.
    pub connected: Memory,
    /// When each client has written, and waits.
    pub held: Memory,
    /// When all keys are written.
    pub dirty: Memory,
    /// When all is answered.
    pub after: Memory,
    /// Of PING, before anybody waits and while all do.
    pub ping: [Probe; 2],
    /// Of GET on a clean key, as well.
    pub get: [Probe; 2],
    /// From the log's return until nothing waits.
    pub recovery: Duration,
}

/// The course of events. Without `log`, nobody waits.
pub fn run(server: &Server, mut log: Option<&mut Log>) -> Result<Seen> {
    let mut admin = server.connect()?;
    admin.call(&["SET", "clean", "value"])?;
    let mut clients = (0..CLIENTS).map(|_| server.connect()).collect::<Result<Vec<_>>>()?;
    let connected = memory(server, &mut admin)?;
    let (ping_before, get_before) = probes(server)?;

    let frozen_at = Instant::now();
    if let Some(log) = &mut log {
        log.freeze()?;
    }
    let mut request = Vec::new();
    // One key for all, so that keys do not count here.
    resp::encode(&mut request, &[b"SET", b"shared", &VALUE]);
    clients.iter_mut().try_for_each(|client| client.send(&request))?;
    match log {
        Some(_) => wait_for(&mut admin, "held_clients", CLIENTS as u64)?,
        None => expect_all(&mut clients)?,
    }
    let held = memory(server, &mut admin)?;
    let (ping_held, get_held) = probes(server)?;

    let mut writer = server.connect()?;
    write_keys(&mut writer)?;
    match log {
        Some(_) => wait_for(&mut admin, "dirty_keys", KEYS as u64 + 1)?,
        None => expect_keys(&mut writer)?,
    }
    let dirty = memory(server, &mut admin)?;

    let mut recovery = Duration::ZERO;
    if let Some(log) = &mut log {
        sleep(OUTAGE.saturating_sub(frozen_at.elapsed()));
        for client in clients.iter().chain([&writer]) {
            if client.arrived()? > 0 {
                return Err("a client was answered during the outage".into());
            }
        }
        let resumed_at = Instant::now();
        log.resume()?;
        for figure in ["pending_bytes", "held_clients", "dirty_keys", "waiting_groups"] {
            wait_for(&mut admin, figure, 0)?;
        }
        recovery = resumed_at.elapsed();
        expect_all(&mut clients)?;
        expect_keys(&mut writer)?;
    }
    let after = memory(server, &mut admin)?;
    Ok(Seen { connected, held, dirty, after, ping: [ping_before, ping_held], get: [get_before, get_held], recovery })
}

fn wait_for(admin: &mut Client, figure: &str, value: u64) -> Result<()> {
    wait_until(&format!("{figure} is {value}"), TIMEOUT, || Ok(admin.durability(figure)? == value))
}

fn expect_all(clients: &mut [Client]) -> Result<()> {
    clients.iter_mut().try_for_each(|client| client.expect(Reply::Status(b"OK")))
}

/// Sends them, and leaves the replies where they are.
fn write_keys(client: &mut Client) -> Result<()> {
    for first in (0..KEYS).step_by(KEYS_PER_COMMAND) {
        let keys: Vec<_> = (first..first + KEYS_PER_COMMAND).map(|key| format!("key:{key:07}")).collect();
        let mut arguments: Vec<&[u8]> = vec![b"MSET"];
        arguments.extend(keys.iter().flat_map(|key| [key.as_bytes(), &VALUE]));
        let mut request = Vec::new();
        resp::encode(&mut request, &arguments);
        client.send(&request)?;
    }
    Ok(())
}

fn expect_keys(client: &mut Client) -> Result<()> {
    (0..KEYS / KEYS_PER_COMMAND).try_for_each(|_| client.expect(Reply::Status(b"OK")))
}

fn memory(server: &Server, admin: &mut Client) -> Result<Memory> {
    sleep(SETTLE);
    // Plain Valkey has no such section.
    let pending = admin.durability("pending_bytes").unwrap_or(0);
    let used = admin.info("memory", "used_memory")?.parse()?;
    Ok(Memory { resident: resident_bytes(server.pid())?, used, pending })
}

fn probes(server: &Server) -> Result<(Probe, Probe)> {
    Ok((probe(server, &[b"PING"], Reply::Status(b"PONG"))?, probe(server, &[b"GET", b"clean"], Reply::Bulk(b"value"))?))
}

/// Sends a request again and again, each when the one before is answered.
fn probe(server: &Server, arguments: &[&[u8]], expected: Reply<'_>) -> Result<Probe> {
    let mut client = server.connect()?;
    let mut request = Vec::new();
    resp::encode(&mut request, arguments);
    let (mut times, mut cpus) = (Times::default(), Vec::new());
    for _ in 0..BATCHES {
        let before = main_thread_time(server.pid())?;
        for _ in 0..BATCH {
            let start = Instant::now();
            client.send(&request)?;
            client.expect(expected)?;
            times.record(start.elapsed());
        }
        let used = main_thread_time(server.pid())? - before;
        cpus.push(used.as_secs_f64() * 1e6 / BATCH as f64);
    }
    cpus.sort_by(f64::total_cmp);
    Ok(Probe { latency: times.percentile(50.0), cpu: cpus[cpus.len() / 2] })
}
