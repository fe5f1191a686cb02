//! Measures a running service: how long an append takes alone, and how much goes through when they are pipelined.
//!
//! `cargo run --release --example append_bench -- 127.0.0.1:7379 DIR` appends to a new shard; for comparison, DIR gets
//! a file to which the same blocks are written and synced without any service.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const LATENCY_ROUNDS: usize = 3000;
const LATENCY_BYTES: usize = 4096;
const PIPELINED_BYTES: usize = 64 << 10;
const PIPELINED_APPENDS: usize = 8192;
const IN_FLIGHT: usize = 256;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(directory)) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::other("usage: append_bench ADDRESS DIR"));
    };
    raw_sync(Path::new(&directory))?;
    let mut client = Client::connect(&address)?;
    let shard = format!("bench-{}", std::process::id());
    client.call(&["LOG.CHECK", &shard, "bench", "-", "-"])?;
    client.call(&["LOG.ACQUIRE", &shard, "bench", "-", "0", "0"])?;
    client.call(&["LOG.BEGIN", &shard, "1", &"0".repeat(40), "0"])?;
    // The service prepares the first segment in the background.
    std::thread::sleep(Duration::from_secs(2));
    let end = latency(&mut client, &shard)?;
    throughput(&mut client, &shard, end)?;
    client.call(&["LOG.RELEASE", &shard, "1"])
}

fn raw_sync(directory: &Path) -> io::Result<()> {
    let path = directory.join("append_bench.tmp");
    let file = File::create(&path)?;
    file.write_all_at(&vec![0; LATENCY_BYTES * LATENCY_ROUNDS], 0)?;
    file.sync_all()?;
    let block = vec![1; LATENCY_BYTES];
    let mut times = Vec::new();
    for round in 0..LATENCY_ROUNDS {
        let start = Instant::now();
        file.write_all_at(&block, (round * LATENCY_BYTES) as u64)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    report("write and fdatasync of 4 KB", times);
    std::fs::remove_file(path)
}

fn latency(client: &mut Client, shard: &str) -> io::Result<u64> {
    let payload = vec![1; LATENCY_BYTES];
    let mut times = Vec::new();
    for round in 0..LATENCY_ROUNDS {
        let start = Instant::now();
        client.send_append(shard, (round * LATENCY_BYTES) as u64, &payload)?;
        client.reply()?;
        times.push(start.elapsed());
    }
    report("LOG.APPEND of 4 KB, one at a time", times);
    let mut times = Vec::new();
    for _ in 0..LATENCY_ROUNDS {
        let start = Instant::now();
        client.send_append(shard, 0, &payload)?;
        client.reply()?;
        times.push(start.elapsed());
    }
    report("the same again, compared and not written", times);
    Ok((LATENCY_ROUNDS * LATENCY_BYTES) as u64)
}

fn throughput(client: &mut Client, shard: &str, mut end: u64) -> io::Result<()> {
    let payload = vec![1; PIPELINED_BYTES];
    let start = Instant::now();
    let mut waiting = 0;
    for _ in 0..PIPELINED_APPENDS {
        if waiting == IN_FLIGHT {
            client.reply()?;
            waiting -= 1;
        }
        client.send_append(shard, end, &payload)?;
        end += PIPELINED_BYTES as u64;
        waiting += 1;
    }
    for _ in 0..waiting {
        client.reply()?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let megabytes = (PIPELINED_APPENDS * PIPELINED_BYTES) as f64 / 1e6;
    println!("LOG.APPEND of 64 KB, {IN_FLIGHT} in flight: {:.0} MB/s", megabytes / seconds);
    // Appends at positions that the log holds already are acknowledged, not written: what remains is the protocol.
    let start = Instant::now();
    for round in 0..PIPELINED_APPENDS + IN_FLIGHT {
        if round >= IN_FLIGHT {
            client.reply()?;
        }
        if round < PIPELINED_APPENDS {
            client.send_append(shard, 0, &payload)?;
        }
    }
    println!("the same again, compared and not written: {:.0} MB/s", megabytes / start.elapsed().as_secs_f64());
    Ok(())
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_micros();
    println!("{what}: p50 {} us, p90 {} us, p99 {} us", at(0.5), at(0.9), at(0.99));
}

struct Client {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Client { replies: BufReader::new(stream.try_clone()?), stream })
    }

    fn call(&mut self, arguments: &[&str]) -> io::Result<()> {
        let mut out = format!("*{}\r\n", arguments.len());
        for argument in arguments {
            out.push_str(&format!("${}\r\n{argument}\r\n", argument.len()));
        }
        self.stream.write_all(out.as_bytes())?;
        self.reply()
    }

    fn send_append(&mut self, shard: &str, offset: u64, payload: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(payload.len() + 128);
        durability_protocol::append_header(&mut out, shard, 1, offset, payload.len());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
        self.stream.write_all(&out)
    }

    fn reply(&mut self) -> io::Result<()> {
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        let Some(lines) = line.strip_prefix('*') else {
            return if line.starts_with('-') || line.is_empty() { Err(io::Error::other(line)) } else { Ok(()) };
        };
        for _ in 0..lines.trim().parse().unwrap_or(0) {
            self.reply()?;
        }
        Ok(())
    }
}
