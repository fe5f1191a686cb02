//! Loads one Valkey server for `scripts/bench.sh --report`, and prints one line of JSON: how much was answered, and how long reads and writes
//! took.
//!
//! At a fixed rate, latencies count from when a request was to be sent, whether it could be or not. `valkey-benchmark --rps` counts from when it
//! was sent (`c->start` in `valkey-benchmark.c`), which hides the wait of all that a slow server keeps from being sent. `memtier_benchmark` is
//! no package of Debian. So this program is its own.
//!
//! - `requests.rs`: what is asked
//! - `connection.rs`: one connection
//! - `seen.rs`: what is counted
//! - `load.rs`: when what is sent, and when it ends

mod connection;
mod load;
mod requests;
mod seen;

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use clap::Parser;

use crate::load::Plan;
use crate::requests::Requests;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Loads one server, and prints a line of JSON.
#[derive(Parser)]
struct Arguments {
    /// Where the server listens.
    #[arg(long)]
    server: SocketAddr,
    /// Connections.
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// Requests that a connection has under way at most. As fast as it is answered: sent together, once all before are answered.
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// Requests a second; 0: each connection sends as soon as it is answered.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// How many of a hundred requests are GETs. The others are SETs.
    #[arg(long, default_value_t = 0)]
    reads_percent: u8,
    /// What names of keys begin with.
    #[arg(long, default_value = "key:")]
    prefix: String,
    /// Keys, of which each request has one at random.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Length of values.
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// What is counted takes so long.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// What comes before that is not counted.
    #[arg(long, default_value_t = 0.5)]
    warm_seconds: f64,
    /// Seed of the keys and of the order of reads and writes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// SETs each key once, as fast as it is answered, instead.
    #[arg(long)]
    fill: bool,
}

fn main() {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(line) => println!("{line}"),
        Err(error) => {
            eprintln!("{}: {error}", arguments.server);
            std::process::exit(1);
        }
    }
}

fn run(arguments: &Arguments) -> Result<String> {
    let Arguments { server, clients, pipeline, rate, reads_percent, keys, value_bytes, seed, fill, .. } = *arguments;
    if clients == 0 || pipeline == 0 || keys == 0 || reads_percent > 100 || !(rate >= 0.0 && rate.is_finite()) {
        return Err("clients, pipeline and keys are 1 or more, reads 0 to 100, and the rate is 0 or more".into());
    }
    let plan = Plan {
        pipeline,
        rate,
        warm: Duration::try_from_secs_f64(arguments.warm_seconds)?,
        counted: Duration::try_from_secs_f64(arguments.seconds)?,
    };
    let prefix = arguments.prefix.as_str();
    let sockets = (0..clients).map(|_| TcpStream::connect(server)).collect::<std::io::Result<Vec<_>>>()?;
    let requests = match fill {
        true => Requests::each_key(prefix, keys, value_bytes),
        false => Requests::random(prefix, keys, value_bytes, reads_percent, seed),
    };
    Ok(load::run(sockets, &plan, requests)?.json().to_string())
}
