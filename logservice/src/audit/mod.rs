//! Compares keys of a shard's leader with what its log holds: the leader reads some of its keys and says at which offset of its stream;
//! an engine applies the newest snapshot and the log up to exactly there, and reads the same keys.
//!
//! Keys are picked on both sides, so that a key that only one side has can be found, and the number of keys of each database is compared.
//! Nothing changes on either side.
//!
//! An audit is one task, for as long as its client is connected. Read this file first, then `compare.rs`: what counts as a difference.

mod compare;

pub use compare::Difference;

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use durability_protocol::audit::{Batch, Found, MAX_BATCH_NAMES};
use durability_protocol::{EngineVersion, Refusal};

use crate::base::log_throttle::say;
use crate::base::printable::printable;
use crate::engine::{Engine, EngineError, EngineOptions, KeyReader, OpenImport, Start};
use crate::shard::{AuditState, AuditStatus, CopyError, Delivery, FullCopy, Inquiry, KeyName, Shard, Unreadable};
use crate::snapshots::SnapshotError;
use crate::store::ReadError;

/// How long an audit may take. It holds one of the places for engines meanwhile.
const LIMIT: Duration = Duration::from_secs(900);
/// How long the leader may be silent while it is asked.
const SILENCE: Duration = Duration::from_secs(15);
/// How often to check meanwhile whether it still leads.
const LED_INTERVAL: Duration = Duration::from_millis(250);
/// How long to wait until the log has what the leader had.
const DURABLE_WITHIN: Duration = Duration::from_secs(30);
/// How often to check that.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Most differences that are reported.
const MAX_TOLD: usize = 100;
/// Samples that the leader may send beyond those that it was asked for, as one scan of its table may bring more.
const SPARE_SAMPLES: u64 = 1000;

/// Why nothing was compared.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Nothing was ever written.
    #[error("the log holds nothing yet")]
    Empty,
    /// The installed engine has another version than the leader.
    #[error("valkey-server here is of version {found}, and the log was written by {writer}: install {writer} here")]
    OtherEngine {
        /// The engine's.
        found: EngineVersion,
        /// The log's.
        writer: EngineVersion,
    },
    /// The leader does not answer.
    #[error(
        "the leader sent no keys for {} s: it does not reach this service, its server is busy, or its module is of a version \
         that knows no audits",
        SILENCE.as_secs()
    )]
    Silent,
    /// The leader gave up.
    #[error("the leader gave up: {0}")]
    GaveUp(String),
    /// The leader sent what it was not asked for.
    #[error("the leader sends {0}")]
    Unasked(&'static str),
    /// The log's history changed meanwhile.
    #[error("another node began to lead, or the log was begun anew, in between: run it again")]
    Changed,
    /// The log is too far behind the leader.
    #[error("the log has not got what the leader had at offset {0} within {time} s: it is behind", time = DURABLE_WITHIN.as_secs())]
    NotDurable(u64),
    /// The leader read its keys in the middle of a command.
    #[error(
        "the leader read its keys at offset {offset}, which is no end of a command: the one before ends at {applied}"
    )]
    Inside {
        /// Where it read.
        offset: u64,
        /// Where the engine stands.
        applied: u64,
    },
    /// The leader hides keys of slots that come to it.
    #[error("slots are being imported, whose keys the leader does not show before they are its own: {0}. Run it again when that has ended")]
    Importing(Box<OpenImport>),
    /// It took too long.
    #[error("it was not done within {} s", LIMIT.as_secs())]
    Overdue,
    /// It took longer than its data explains while other shards waited.
    #[error(
        "it gave way to other shards after {} s, as it took longer than its data explains: --engine-mb-per-second allows more time, \
         --max-engines more at a time",
        after.as_secs()
    )]
    GaveWay {
        /// How long it had taken.
        after: Duration,
    },
    /// The client has disconnected.
    #[error("it was ended, as who had asked for it disconnected")]
    Abandoned,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The snapshot cannot be read.
    #[error(transparent)]
    Snapshot(#[from] Unreadable),
    /// There is no place for the engine's files.
    #[error(transparent)]
    Directory(#[from] SnapshotError),
    /// The shard refuses.
    #[error("{}", .0.detail)]
    Refused(#[from] Refusal),
}

impl From<CopyError> for AuditError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Refused(refusal) => refusal.into(),
            CopyError::Unreadable(unreadable) => unreadable.into(),
        }
    }
}

/// What was compared, and what differs.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Keys that were compared, including those that neither side has.
    pub keys: u64,
    /// Compared keys whose value was too large to be read completely: its beginning, or only its length and TTL, were compared.
    pub keys_in_part: u64,
    /// Compared keys of a module's type, of which only the existence was compared.
    pub keys_of_modules: u64,
    /// Keys that differ, and databases whose numbers of keys differ.
    pub differences: u64,
    /// The first differences, 100 at most.
    pub told: Vec<Difference>,
    /// Where the leader read first (exclusive).
    pub first_offset: u64,
    /// Where it read last (exclusive).
    pub last_offset: u64,
    /// How long it took.
    pub time: Duration,
    /// From the leader's first keys to its last.
    pub leader_time: Duration,
    /// How long its main thread was busy with that.
    pub leader_busy: Duration,
    /// The longest that it was busy at a time.
    pub leader_longest: Duration,
}

/// Compares about `keys` keys that the leader picks and as many that are picked in the log, unless `given_up` ends it. Updates
/// [`Shard::audit_status`].
///
/// # Errors
/// Not everything was compared.
pub async fn run(
    shard: &Arc<Shard>,
    engine: &EngineOptions,
    keys: u64,
    given_up: impl Future<Output = AuditError>,
) -> Result<Report, AuditError> {
    let since = Instant::now();
    shard.note_audit(AuditStatus { state: AuditState::Running, ..AuditStatus::default() });
    let mut done = tokio::select! {
        done = tokio::time::timeout(LIMIT, compare_keys(shard, engine, keys)) => done.unwrap_or(Err(AuditError::Overdue)),
        error = given_up => Err(error),
    };
    let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let name = shard.name();
    match &mut done {
        Ok(report) => {
            report.time = since.elapsed();
            for difference in &report.told {
                tracing::warn!("shard {name}: the leader and the log differ: {difference}");
            }
            let Report { keys, differences, .. } = *report;
            tracing::info!(
                "shard {name}: audit of {keys} keys, {differences} differences, in {} ms",
                report.time.as_millis()
            );
            let first_difference = report.told.first().map(ToString::to_string).unwrap_or_default();
            let error = String::new();
            shard.note_audit(AuditStatus {
                state: AuditState::Done,
                time_ms,
                keys,
                differences,
                first_difference,
                error,
            });
        }
        Err(error) => {
            let error = printable(&error.to_string());
            say!(shard.lines(), warn, "shard {name}: no audit: {error}");
            shard.note_audit(AuditStatus { state: AuditState::Failed, time_ms, error, ..AuditStatus::default() });
        }
    }
    done
}

async fn compare_keys(shard: &Arc<Shard>, options: &EngineOptions, keys: u64) -> Result<Report, AuditError> {
    // Before anything that takes long.
    shard.check_led()?;
    let manifest = shard.store().manifest();
    let (writer, databases) = (manifest.engine(), manifest.databases());
    if shard.notifier().progress().visible == 0 {
        return Err(AuditError::Empty);
    }
    let directory = shard.snapshots().directory_of_engine(&manifest)?;
    let mut engine = Engine::start(options, &directory.path().join("dump.rdb"), databases).await?;
    let found = engine.version();
    if let Some(writer) = writer.filter(|writer| !found.is_like(*writer)) {
        return Err(AuditError::OtherEngine { found, writer });
    }
    // Not before the engine runs, so that a snapshot that is replaced until then can be removed.
    let FullCopy { replid, offset, snapshot, stream, pin } = shard.full_copy().await?;
    let end = shard.notifier().progress().visible;
    let snapshot = snapshot.map(|(record, reader)| (reader, record.bytes));
    let log = Some(shard.store().reader(offset)?);
    let start = Start { replid, offset, snapshot, log, end, engine: writer, epochs: manifest.epoch_starts() };
    let mut feed = engine.open_feed(start)?;
    engine.apply(&mut feed).await?;
    let mut reader = KeyReader::open(&mut engine, &mut feed).await?;
    let names = reader.draw(keys).await?;
    let mut inquiry = shard.ask_leader(keys)?;
    let since = Instant::now();
    let batches = gather(shard, &mut inquiry, names, keys, end).await?;
    let leader_time = since.elapsed();
    let epoch = inquiry.epoch;
    drop(inquiry);
    let last_offset = batches.last().map_or(end, |batch| batch.offset);
    wait_until_durable(shard, stream, epoch, last_offset).await?;
    let mut report = Report {
        first_offset: batches.first().map_or(end, |batch| batch.offset),
        last_offset,
        leader_time,
        ..Report::default()
    };
    let mut told = HashSet::new();
    for batch in &batches {
        look(&mut reader, batch, &mut report, &mut told).await?;
    }
    if shard.notifier().progress().stream != stream {
        return Err(AuditError::Changed);
    }
    engine.stop().await;
    drop(pin);
    Ok(report)
}

/// Takes what the leader sends, in the order of its offsets, and gives it `names` in return.
async fn gather(
    shard: &Shard,
    inquiry: &mut Inquiry,
    names: Vec<KeyName>,
    keys: u64,
    from: u64,
) -> Result<Vec<Batch>, AuditError> {
    let mut names = VecDeque::from(names);
    let most = keys + names.len() as u64 + SPARE_SAMPLES;
    let (mut batches, mut samples, mut offset) = (Vec::new(), 0, from);
    loop {
        let Delivery { batch, answer } = next_delivery(shard, inquiry).await?;
        if let Some(why) = batch.failure {
            return Err(AuditError::GaveUp(why.chars().filter(|c| !c.is_control()).take(200).collect()));
        }
        samples += batch.samples.len() as u64;
        if samples > most {
            return Err(AuditError::Unasked("more keys than it was asked for"));
        }
        if !batch.samples.is_empty() || batch.databases.is_some() {
            if batch.offset < offset {
                return Err(AuditError::Unasked("keys of before the audit began"));
            }
            offset = batch.offset;
        }
        let batch_is_last = batch.is_last;
        // No kept batch is empty, so there are not more batches than samples.
        if !batch.samples.is_empty() || batch.databases.is_some() && batches.len() < most as usize {
            batches.push(batch);
        }
        let handed: Vec<_> = names.drain(..names.len().min(MAX_BATCH_NAMES)).collect();
        let is_last = batch_is_last && handed.is_empty();
        // A leader that is gone sends nothing more.
        let _ = answer.send(handed);
        if is_last {
            return Ok(batches);
        }
    }
}

async fn next_delivery(shard: &Shard, inquiry: &mut Inquiry) -> Result<Delivery, AuditError> {
    let deadline = Instant::now() + SILENCE;
    loop {
        // `next` is cancel-safe.
        if let Ok(delivery) = tokio::time::timeout(LED_INTERVAL, inquiry.next()).await {
            return delivery.ok_or(AuditError::Silent);
        }
        if !shard.is_led_in(inquiry.epoch) {
            return Err(AuditError::Changed);
        }
        if Instant::now() > deadline {
            return Err(AuditError::Silent);
        }
    }
}

/// Waits until the log has everything up to `offset` (exclusive), all of it from one leader.
async fn wait_until_durable(shard: &Shard, stream: u64, epoch: u64, offset: u64) -> Result<(), AuditError> {
    let deadline = Instant::now() + DURABLE_WITHIN;
    loop {
        let progress = shard.notifier().progress();
        if progress.stream != stream || !shard.is_led_in(epoch) {
            return Err(AuditError::Changed);
        }
        shard.check_not_failed()?;
        if progress.visible >= offset {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(AuditError::NotDurable(offset));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Compares what the leader read at one moment.
async fn look(
    reader: &mut KeyReader<'_>,
    batch: &Batch,
    report: &mut Report,
    told: &mut HashSet<KeyName>,
) -> Result<(), AuditError> {
    let Batch { offset, time_ms, samples, .. } = batch;
    let (offset, time_ms) = (*offset, *time_ms);
    let applied = reader.go_to(offset).await?;
    if applied != offset {
        return Err(AuditError::Inside { offset, applied });
    }
    if let Some(import) = reader.open_imports(offset).into_iter().next() {
        return Err(AuditError::Importing(Box::new(import)));
    }
    if let Some(on_leader) = &batch.databases {
        for difference in compare::different_counts(on_leader, &reader.key_counts().await?, offset) {
            report.tell(difference);
        }
    }
    let took = Duration::from_micros(batch.took_us);
    report.leader_busy += took;
    report.leader_longest = report.leader_longest.max(took);
    let in_log = reader.read(samples, time_ms).await?;
    for (sample, in_log) in samples.iter().zip(&in_log) {
        report.keys += 1;
        match &sample.found {
            Found::Key(facts) if !facts.parts().are_whole(facts.kind, facts.length) => report.keys_in_part += 1,
            Found::OtherType => report.keys_of_modules += 1,
            Found::Key(_) | Found::Nothing => {}
        }
        let different = compare::difference(&sample.found, in_log, time_ms);
        if let Some(what) = different.filter(|_| told.insert((sample.database, sample.key.clone()))) {
            let key = Some(sample.key.clone());
            report.tell(Difference { database: sample.database, key, offset, what });
        }
    }
    Ok(())
}

impl Report {
    fn tell(&mut self, difference: Difference) {
        // A database is compared more than once, and reported once.
        if difference.key.is_none()
            && self.told.iter().any(|other| other.key.is_none() && other.database == difference.database)
        {
            return;
        }
        self.differences += 1;
        if self.told.len() < MAX_TOLD {
            self.told.push(difference);
        }
    }
}
