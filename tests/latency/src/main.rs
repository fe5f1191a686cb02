//! Measures what clients see of durability, on servers and a log service that it starts itself: latencies beside plain
//! Valkey, whether any reply leaves early, what an outage of the log costs in memory, and when writes are refused and
//! accepted again in async mode. `scripts/latency.sh` builds everything and runs it.
//!
//! It ends with status 1 if a target is missed, and 2 if something could not be measured.

mod client;
mod figures;
mod load;
mod numbered;
mod paced;
mod plan;
mod pool;
mod process;
mod processes;
mod report;
mod resp;
mod stream;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::processes::Programs;
use crate::report::Report;

/// What can go wrong has one answer: the figure is not measured.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures what clients see of durability.
#[derive(Debug, Parser)]
#[command(name = "durability-latency", version, args_override_self = true)]
struct Options {
    /// What to measure; everything unless told
    #[arg(value_enum)]
    figures: Vec<Figure>,
    /// Seconds of each timed run; each figure has its own unless told
    #[arg(long)]
    seconds: Option<u64>,
    /// Interleaved rounds of the comparison with plain Valkey
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Limit of the lag in ms at which the limit is measured; the server's own default unless told
    #[arg(long, default_value_t = 10_000)]
    max_lag_ms: u64,
    /// First of the ports of loopback that are used
    #[arg(long, default_value_t = 28000)]
    base_port: u16,
    /// Directory for the servers, and for the log unless it has its own
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Directory for the log; one in memory leaves the disk out of the latencies, so that the log takes what it is
    /// told to
    #[arg(long)]
    log_dir: Option<PathBuf>,
    /// Directory of valkey-server
    #[arg(long, env = "VALKEY_BIN_DIR")]
    valkey: PathBuf,
    /// The module
    #[arg(long, env = "DURABILITY_SO")]
    module: PathBuf,
    /// The log service
    #[arg(long, env = "LOGSERVICE")]
    logservice: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Figure {
    /// Latencies on one connection that carries 50,000 requests a second
    Multiplexed,
    /// Replies that leave before the log has acknowledged, with I/O threads
    Early,
    /// Latencies of reads beside writes, compared with plain Valkey
    Reads,
    /// Memory and time that held clients and dirty keys cost
    Bounds,
    /// When writes are refused and accepted again in async mode, if the log stops and goes on
    Limit,
    /// What clients notice of snapshots that the log service makes
    Snapshot,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut report = Report::default();
    match run(&options, &mut report) {
        Ok(()) if report.is_all_met() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(1),
        Err(error) => {
            eprintln!("durability-latency: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options, report: &mut Report) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("latency.").tempdir_in(&options.dir)?;
    let log_directory =
        tempfile::Builder::new().prefix("latency.").tempdir_in(options.log_dir.as_ref().unwrap_or(&options.dir))?;
    let programs = Programs {
        valkey_server: options.valkey.join("valkey-server"),
        module: options.module.clone(),
        logservice: options.logservice.clone(),
        directory: directory.path().to_owned(),
        log_directory: log_directory.path().to_owned(),
        base_port: options.base_port,
    };
    let figures = if options.figures.is_empty() { Figure::value_variants() } else { &options.figures };
    for figure in figures {
        match figure {
            Figure::Multiplexed => figures::multiplexed::measure(&programs, options.seconds.unwrap_or(10), report),
            Figure::Early => figures::early::measure(&programs, report),
            Figure::Reads => {
                figures::reads::measure(&programs, options.seconds.unwrap_or(5), options.rounds.into(), report)
            }
            Figure::Bounds => figures::bounds::measure(&programs, report),
            Figure::Limit => {
                figures::limit::measure(&programs, options.seconds.unwrap_or(5), options.max_lag_ms, report)
            }
            Figure::Snapshot => {
                figures::snapshot::measure(&programs, options.seconds.unwrap_or(10), options.rounds.into(), report)
            }
        }?;
    }
    Ok(())
}
