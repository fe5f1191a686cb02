//! Measures the file store by itself: appends of 64 KB against plain sequential writing with O_DSYNC beside it, and how fast the
//! log is read back out of the page cache, and both again with a log that is encrypted. Prints medians of interleaved runs; fails if a target is
//! missed.
//!
//! `cargo run --release --example store_bench -- DIR [RUNS]`

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::Instant;

use bytes::Bytes;
use logservice::encryption::KeyRing;
use logservice::store::file_store::{self, FileStoreOptions, Threads};
use logservice::store::{Append, Opened, Store, StoreEvents};

const BLOCK_BYTES: usize = 64 << 10;
/// What each writes before the next has its turn.
const TURN_BYTES: usize = 4 << 20;
const TURNS: usize = 60;
const SEGMENT_BYTES: u64 = 64 << 20;
/// The log behind its base is dropped, so that its files are written again, as in a log that is in use for long.
const KEPT_BYTES: u64 = 128 << 20;
const READ_BYTES: usize = 256 << 10;
/// Many appends on their way at once.
const IN_FLIGHT_BYTES: u64 = 16 << 20;

/// What is written comes out of this. There are disks that write zeros, or what they have written before, more quickly; what is encrypted
/// looks like none of that.
static BYTES: LazyLock<Bytes> = LazyLock::new(|| {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..4 * TURN_BYTES).map(|_| next()).collect::<Vec<u8>>().into()
});

/// The block that is written at `position`: no other one is the same.
fn block(position: u64) -> Bytes {
    let from = (position.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % (BYTES.len() - BLOCK_BYTES);
    BYTES.slice(from..from + BLOCK_BYTES)
}

const APPEND_TARGET: f64 = 0.8;
/// Appends to an encrypted log, compared with one that is not.
const ENCRYPTED_TARGET: f64 = 0.85;
const READ_TARGET_MB_S: f64 = 500.0;
/// Two of plain writing, then four each of a log that is not encrypted and of one that is.
const COLUMNS: usize = 10;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(directory) = arguments.next() else { return fail("usage: store_bench DIR [RUNS]") };
    let runs: usize = arguments.next().and_then(|runs| runs.parse().ok()).unwrap_or(3);
    match measure(Path::new(&directory), runs) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(missed) => fail(&format!("targets missed: {missed}")),
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("store_bench: {reason}");
    ExitCode::FAILURE
}

/// Runs everything and prints it; answers how many targets were missed.
fn measure(directory: &Path, runs: usize) -> io::Result<usize> {
    let mut rates: [Vec<f64>; COLUMNS] = Default::default();
    for _ in 0..runs {
        run(directory, &mut rates)?;
    }
    let [fresh, written, many, single, double, reads, sealed_many, sealed_single, sealed_double, sealed_reads] =
        rates.map(median);
    println!("MB/s, medians of {} turns, 64 KB at a time", runs * TURNS);
    println!("  {:<46} {fresh:>7.0}", "O_DSYNC, a new file");
    println!("  {:<46} {written:>7.0}", "O_DSYNC, a file that was written before");
    println!("  {:<46} {single:>7.0} {:>6.2}", "log, one append at a time", single / written);
    println!("  {:<46} {many:>7.0} {:>6.2}", "log, many in flight, which share syncs", many / written);
    let mut missed = 0;
    let mut judge = |what: &str, rate: f64, ratio: Option<f64>, target: f64| {
        let is_met = ratio.unwrap_or(rate) >= target;
        missed += usize::from(!is_met);
        let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        println!("  {what:<46} {rate:>7.0} {ratio:>6}   >= {target:<5} {}", if is_met { "ok" } else { "MISSED" });
    };
    judge("log, each append synced, to a new file", double, Some(double / fresh), APPEND_TARGET);
    judge("the same, to a file that was written before", double, Some(double / written), APPEND_TARGET);
    judge("reading the log out of the page cache", reads, None, READ_TARGET_MB_S);
    println!("encrypted, and compared with the same that is not");
    let ratio = |sealed, plain| Some(sealed / plain);
    judge("log, one append at a time", sealed_single, ratio(sealed_single, single), ENCRYPTED_TARGET);
    judge("log, many in flight, which share syncs", sealed_many, ratio(sealed_many, many), ENCRYPTED_TARGET);
    judge("log, each append synced", sealed_double, ratio(sealed_double, double), ENCRYPTED_TARGET);
    judge("reading the log out of the page cache", sealed_reads, None, READ_TARGET_MB_S);
    Ok(missed)
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// All take turns, so that whatever else the disk does is shared by them.
fn run(directory: &Path, rates: &mut [Vec<f64>; COLUMNS]) -> io::Result<()> {
    let [fresh_path, written_path, log_path, sealed_path] =
        ["fresh", "written", "log", "encrypted-log"].map(|name| directory.join(name));
    let _ = fs::remove_dir_all(&log_path);
    let _ = fs::remove_dir_all(&sealed_path);
    let _ = fs::remove_file(&fresh_path);
    let written = raw(&written_path)?;
    for turn in 0..TURNS {
        write(&written, turn)?;
    }
    let keys =
        KeyRing::of_text(&format!("bench 01{}", "23".repeat(31))).map_err(|(_, reason)| io::Error::other(reason))?;
    let (fresh, mut log) = (raw(&fresh_path)?, Log::open(&log_path, Arc::default())?);
    let mut sealed = Log::open(&sealed_path, keys)?;
    // The whole log so far is in files that are written for the first time; the turns are made in the others.
    for log in [&mut log, &mut sealed] {
        while log.end < KEPT_BYTES + 2 * SEGMENT_BYTES {
            log.append(IN_FLIGHT_BYTES, Syncs::Shared)?;
        }
    }
    rustix::fs::syncfs(&fresh)?;
    for turn in 0..TURNS {
        rates[0].push(megabytes_per_second(|| write(&fresh, turn))?);
        rates[1].push(megabytes_per_second(|| write(&written, turn))?);
        let mut logs = [(2, &mut log), (6, &mut sealed)];
        // Which is first has the disk to itself for longer.
        logs.rotate_left(turn % 2);
        for (first, log) in &mut logs {
            rates[*first].push(megabytes_per_second(|| log.append(IN_FLIGHT_BYTES, Syncs::Shared))?);
        }
        for (first, log) in &mut logs {
            rates[*first + 1].push(megabytes_per_second(|| log.append(1, Syncs::Each))?);
        }
        for (first, log) in &mut logs {
            let syncs = log.store.usage().commits;
            rates[*first + 2].push(megabytes_per_second(|| log.append(IN_FLIGHT_BYTES, Syncs::Each))?);
            assert_eq!(log.store.usage().commits - syncs, (TURN_BYTES / BLOCK_BYTES) as u64, "appends shared a sync");
        }
        for (first, log) in &logs {
            rates[*first + 3].push(megabytes_per_second(|| log.read())?);
        }
    }
    drop((log, sealed));
    fs::remove_dir_all(log_path)?;
    fs::remove_dir_all(sealed_path)?;
    fs::remove_file(fresh_path)?;
    fs::remove_file(written_path)
}

fn megabytes_per_second(turn: impl FnOnce() -> io::Result<()>) -> io::Result<f64> {
    let started = Instant::now();
    turn()?;
    Ok(TURN_BYTES as f64 / 1e6 / started.elapsed().as_secs_f64())
}

fn raw(path: &Path) -> io::Result<File> {
    let dsync = rustix::fs::OFlags::DSYNC.bits() as i32;
    OpenOptions::new().create(true).truncate(false).write(true).custom_flags(dsync).open(path)
}

fn write(file: &File, turn: usize) -> io::Result<()> {
    let position = |at: usize| (turn * TURN_BYTES + at) as u64;
    (0..TURN_BYTES)
        .step_by(BLOCK_BYTES)
        .try_for_each(|at| file.write_all_at(&BYTES[at..at + BLOCK_BYTES], position(at)))
}

/// Whether appends that wait may go into one record. Those of different epochs never do.
#[derive(PartialEq)]
enum Syncs {
    Each,
    Shared,
}

/// A log that is appended to, trimmed and read.
struct Log {
    store: Arc<dyn Store>,
    durable: Arc<Durable>,
    end: u64,
}

impl Log {
    fn open(directory: &Path, keys: Arc<KeyRing>) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let durable = Arc::new(Durable::default());
        let threads = Threads::start()?;
        let options = FileStoreOptions { segment_bytes: SEGMENT_BYTES, max_log_bytes: None, threads, keys };
        let opened = file_store::open(directory, "bench", &options, durable.clone()).map_err(io::Error::other)?;
        let Opened { store, end } = opened;
        Ok(Log { store, durable, end })
    }

    fn append(&mut self, in_flight_bytes: u64, syncs: Syncs) -> io::Result<()> {
        for number in 0..TURN_BYTES / BLOCK_BYTES {
            let epoch = if syncs == Syncs::Each { number as u64 % 2 } else { 0 };
            let append = Append { epoch, offset: self.end, payload: block(self.end) };
            self.store.submit(append).map_err(io::Error::other)?;
            self.end += BLOCK_BYTES as u64;
            self.durable.wait((self.end + 1).saturating_sub(in_flight_bytes))?;
        }
        self.durable.wait(self.end)?;
        let mut manifest = self.store.manifest().next();
        // Seldom, as each time the manifest is written.
        if self.end > manifest.base + KEPT_BYTES + SEGMENT_BYTES {
            manifest.base = self.end - KEPT_BYTES;
            self.store.replace_manifest(manifest).map_err(io::Error::other)?;
            self.store.trim(self.end - KEPT_BYTES).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Reads what was appended last.
    fn read(&self) -> io::Result<()> {
        let mut reader = self.store.reader(self.end - TURN_BYTES as u64).map_err(io::Error::other)?;
        while reader.offset() < self.end {
            reader.read(self.end, READ_BYTES).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// How far the log is durable, or why it will not be.
#[derive(Default)]
struct Durable {
    state: Mutex<(u64, Option<String>)>,
    changed: Condvar,
}

impl Durable {
    fn change(&self, change: impl FnOnce(&mut (u64, Option<String>))) {
        change(&mut self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        self.changed.notify_one();
    }

    /// Waits until everything below `end` is durable.
    fn wait(&self, end: u64) -> io::Result<()> {
        let state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let waited = self.changed.wait_while(state, |(durable, failure)| *durable < end && failure.is_none());
        match &waited.unwrap_or_else(|poisoned| poisoned.into_inner()).1 {
            Some(reason) => Err(io::Error::other(reason.clone())),
            None => Ok(()),
        }
    }
}

impl StoreEvents for Durable {
    fn durable(&self, end: u64) {
        self.change(|state| state.0 = end);
    }

    fn refused(&self, _end: u64, reason: &str) {
        self.change(|state| state.1 = Some(reason.to_owned()));
    }

    fn failed(&self, reason: &str) {
        self.change(|state| state.1 = Some(reason.to_owned()));
    }

    fn damaged(&self, reason: &str) {
        self.failed(reason);
    }
}
