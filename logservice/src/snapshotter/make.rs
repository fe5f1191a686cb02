//! Makes one snapshot: an engine applies the newest snapshot and the log after it, and saves. The file is checked and rehearsed, then stored
//! and recorded, and the log below it is dropped.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use durability_protocol::{EngineVersion, Refusal};

use super::clear_end::ClearEnd;
use super::SnapshotterOptions;
use crate::base::background::{self, Priority};
use crate::engine::{inspect_rdb, Engine, EngineError, Feed, FeedError, OpenImport, RdbFacts, Start};
use crate::shard::{CopyError, FullCopy, Origin, Shard, Unreadable};
use crate::snapshots::{Draft, SnapshotError};
use crate::store::{Contents, Manifest, ReadError, SnapshotRecord};

/// Log that arrived while the engine applied is applied too, unless it is less than this.
const CATCH_UP_BYTES: u64 = 1 << 20;

/// Why a snapshot was not made. Earlier snapshots stay.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// Nothing was ever written.
    #[error("the log holds nothing yet")]
    Empty,
    /// No complete command was written since the last snapshot.
    #[error("nothing that can be applied was written since offset {0}")]
    NothingNew(u64),
    /// No complete command was written since the last snapshot, and none can be: the log takes as much as it may, and needs all of it.
    #[error(
        "nothing that can be applied was written since offset {offset}, and the log takes as much as --max-log-mb {most_mb} allows: raise \
         --max-log-mb to more than the largest command or transaction and two segments, as one does not fit"
    )]
    TooLong {
        /// Offset of the last snapshot.
        offset: u64,
        /// The most a log may take, in MiB.
        most_mb: u64,
    },
    /// Since the last snapshot, imports of slots were open all the time, and a snapshot would hold a part of them.
    #[error(
        "nothing was written since offset {offset} before an import that is open: {import}. A snapshot stands where none is open; ask \
         again when it has ended"
    )]
    Importing {
        /// Offset of the last snapshot, or where the log begins.
        offset: u64,
        /// The first of them.
        import: Box<OpenImport>,
    },
    /// The installed engine would write what the nodes cannot load.
    #[error("valkey-server here is of version {found}, and the log was written by {writer}: install {writer} here, or upgrade the nodes")]
    OtherEngine {
        /// The engine's.
        found: EngineVersion,
        /// The log's.
        writer: EngineVersion,
    },
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
    /// It got too little of a core.
    #[error(
        "it got too little of a core in {} s, and is begun again with a higher priority: the machine has always something else to do",
        after.as_secs()
    )]
    Starved {
        /// How long it had taken.
        after: Duration,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The snapshot could not be stored.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The RDB records another offset.
    #[error("the RDB stands at {found}, not at {expected}")]
    Position {
        /// Replication id and offset in the RDB.
        found: String,
        /// Those that it should have.
        expected: String,
    },
    /// Loading the RDB gave other data than was saved.
    #[error("the rehearsal found other data than was saved: {found:?} instead of {saved:?}")]
    Rehearsal {
        /// After loading.
        found: Box<Contents>,
        /// Before saving.
        saved: Box<Contents>,
    },
    /// There is no readable snapshot to begin with.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The shard refuses.
    #[error("{0}")]
    Refused(#[from] Refusal),
}

impl From<CopyError> for MakeError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Refused(refusal) => refusal.into(),
            CopyError::Unreadable(unreadable) => unreadable.into(),
        }
    }
}

/// How long each step took.
#[derive(Debug)]
struct Times {
    since: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Times {
    /// Ends a step, which began when the one before it ended.
    fn end(&mut self, part: &'static str) {
        let now = Instant::now();
        self.parts.push((part, now - self.since));
        self.since = now;
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: Duration = self.parts.iter().map(|(_, took)| *took).sum();
        write!(f, "{} ms:", total.as_millis())?;
        let mut parts = self.parts.iter().peekable();
        while let Some((part, took)) = parts.next() {
            let end = if parts.peek().is_some() { "," } else { "" };
            write!(f, " {part} {}{end}", took.as_millis())?;
        }
        Ok(())
    }
}

impl MakeError {
    /// Whether it would be the same at any service that keeps the log.
    pub fn is_of_the_log(&self) -> bool {
        matches!(
            self,
            MakeError::Empty | MakeError::NothingNew(_) | MakeError::TooLong { .. } | MakeError::Importing { .. }
        )
    }
}

/// Makes a snapshot of what is durable now, and records it; where another service decides over the log, that one records it. If the newest
/// snapshot turns out to be unreadable, begins with an older one.
pub async fn make(shard: &Shard, options: &SnapshotterOptions) -> Result<SnapshotRecord, MakeError> {
    let mut made = make_of_newest(shard, options).await;
    for _ in 1..shard.store().manifest().snapshots.len() {
        // That snapshot is now known to be unreadable.
        let Err(MakeError::Engine(EngineError::Feed(FeedError::Snapshot(_)))) = &made else { break };
        made = make_of_newest(shard, options).await;
    }
    made
}

async fn make_of_newest(shard: &Shard, options: &SnapshotterOptions) -> Result<SnapshotRecord, MakeError> {
    let began = Instant::now();
    let mut times = Times { since: Instant::now(), parts: Vec::new() };
    let made_of = shard.store().manifest();
    let FullCopy { replid, offset, snapshot, stream, pin } = shard.full_copy().await?;
    // Opened again once the engine runs, so that a snapshot that is replaced until then can be removed.
    let snapshot = snapshot.map(|(record, _)| record);
    let visible = shard.notifier().progress().visible;
    if visible == offset {
        // Nothing was written since, so the last one is up to date.
        return snapshot.ok_or(MakeError::Empty);
    }
    let mut clear = ClearEnd::new(shard, &made_of, offset, options.engine.priority)?;
    let end = clear.before(visible).await?;
    if let Some(import) = clear.first_open().filter(|_| end == offset) {
        return Err(MakeError::Importing { offset, import: Box::new(import) });
    }
    let writer = made_of.engine();
    let directory = shard.snapshots().directory_of_engine(&made_of)?;
    let file = directory.path().join("dump.rdb");

    let mut engine = Engine::start(&options.engine, &file, made_of.databases()).await?;
    let version = engine.version();
    if let Some(writer) = writer.filter(|writer| !version.is_like(*writer)) {
        return Err(MakeError::OtherEngine { found: version, writer });
    }
    let source = match &snapshot {
        Some(record) => Some((shard.snapshots().get(record).await?, record.bytes)),
        None => None,
    };
    let log = Some(shard.store().reader(offset)?);
    let epochs = made_of.epoch_starts();
    let start = Start { replid: replid.clone(), offset, snapshot: source, log, end, engine: writer, epochs };
    let mut feed = engine.open_feed(start)?;
    let applied =
        engine.apply(&mut feed).await.inspect_err(|error| note_unreadable(shard, snapshot.as_ref(), error))?;
    let applied = catch_up(shard, stream, &mut clear, &mut engine, &mut feed).await?.unwrap_or(applied);
    if applied <= offset {
        return Err(nothing_new(shard, offset));
    }
    times.end("applying");
    engine.save().await?;
    times.end("saving");
    // The file is checked while the engine reports what it holds, in parallel if there are cores for both.
    let (saved, (facts, draft)) =
        tokio::try_join!(async { engine.contents().await.map_err(MakeError::from) }, async {
            let facts = inspect_rdb(&options.engine, &file).await?;
            Ok((facts, adopt(shard, options.engine.priority, &made_of, applied, &file).await?))
        },)?;
    engine.stop().await;
    drop(feed);
    // The log that was applied may be dropped once the snapshot counts.
    drop(pin);
    check_position(&facts, &replid, applied)?;
    times.end("checking");
    rehearse(shard, &draft, &made_of, &replid, &saved, options).await?;
    times.end("rehearsing");
    let bytes = draft.bytes();
    let mut contents = saved;
    contents.module_types.extend(facts.module_types);
    contents.module_types.sort_unstable();
    contents.module_types.dedup();
    let origin = Origin { replid: &replid, engine: Some(version), contents: Some(contents) };
    let record = match shard.decides() {
        true => shard.keep_snapshot(&made_of, draft, origin, options.keep).await?,
        false => shard.store_snapshot_here(draft, origin).await?.0,
    };
    times.end("storing");
    warn_if_longer_than_kept(shard, began.elapsed());
    let imports = clear.first_open().filter(|import| import.since == applied);
    let imports = imports.map(|import| format!(", before an import that is open: {import}")).unwrap_or_default();
    tracing::info!(
        "shard {}: snapshot at offset {applied}, {bytes} bytes, made and rehearsed in {times}{imports}",
        shard.name()
    );
    Ok(record)
}

/// With `--keep`, snapshots that take longer than what is kept are an error of whoever has set it: nothing is lost, but more than that is kept.
fn warn_if_longer_than_kept(shard: &Shard, took: Duration) {
    let Some(keep) = shard.archive().map(|archive| archive.options().keep).filter(|keep| took > *keep) else { return };
    tracing::warn!(
        "shard {}: a snapshot took {} s, longer than --keep {}: snapshots and log are kept for longer than that, so that any moment of that \
         time can be restored. Give a longer --keep",
        shard.name(),
        took.as_secs(),
        humantime::format_duration(keep)
    );
}

fn nothing_new(shard: &Shard, offset: u64) -> MakeError {
    match shard.store().usage().max_log_bytes {
        Some(most) if shard.is_over_quota() && shard.needs_all_log() => {
            MakeError::TooLong { offset, most_mb: most >> 20 }
        }
        _ => MakeError::NothingNew(offset),
    }
}

/// Lets the next attempt begin with an older snapshot, if this one is at fault.
fn note_unreadable(shard: &Shard, record: Option<&SnapshotRecord>, error: &EngineError) {
    if let (Some(record), EngineError::Feed(FeedError::Snapshot(error))) = (record, error) {
        if error.is_of_one() {
            shard.note_unreadable(record, error);
        }
    }
}

/// Applies log that arrived while the engine applied earlier log, as long as that becomes less. So nodes that start from the snapshot have
/// less to replay, and more log is dropped. Returns up to where is applied (exclusive), if there was anything.
async fn catch_up(
    shard: &Shard,
    stream: u64,
    clear: &mut ClearEnd,
    engine: &mut Engine,
    feed: &mut Feed,
) -> Result<Option<u64>, MakeError> {
    let (mut applied, mut behind_before) = (None, u64::MAX);
    loop {
        let progress = shard.notifier().progress();
        let behind = progress.visible.saturating_sub(feed.end());
        // Another leader writes under another replication id.
        if progress.stream != stream || behind < CATCH_UP_BYTES || behind > behind_before / 2 {
            return Ok(applied);
        }
        let end = clear.before(progress.visible).await?;
        if end <= feed.end() {
            return Ok(applied);
        }
        feed.extend(end);
        behind_before = behind;
        applied = Some(engine.catch_up(feed).await?);
    }
}

async fn adopt(
    shard: &Shard,
    priority: Priority,
    made_of: &Manifest,
    offset: u64,
    file: &Path,
) -> Result<Draft, MakeError> {
    let (store, manifest, written) = (shard.snapshots().clone(), made_of.clone(), file.to_owned());
    let adopted = background::run(priority, move || store.adopt(&manifest, offset, &written)).await;
    Ok(adopted.map_err(|error| SnapshotError::Read { file: file.display().to_string(), source: error })??)
}

fn check_position(facts: &RdbFacts, replid: &str, offset: u64) -> Result<(), MakeError> {
    let is_right = facts.position.as_ref().is_some_and(|(id, at)| id == replid && *at == offset);
    if is_right {
        return Ok(());
    }
    let say = |(replid, offset): &(String, u64)| format!("offset {offset} of {replid}");
    let found = facts.position.as_ref().map_or_else(|| "no offset".to_owned(), say);
    Err(MakeError::Position { found, expected: say(&(replid.to_owned(), offset)) })
}

/// Loads a draft into a second engine, as a node would, and compares what that holds with what was saved.
async fn rehearse(
    shard: &Shard,
    draft: &Draft,
    made_of: &Manifest,
    replid: &str,
    saved: &Contents,
    options: &SnapshotterOptions,
) -> Result<(), MakeError> {
    let directory = shard.snapshots().directory_of_engine(made_of)?;
    let mut engine = Engine::start(&options.engine, &directory.path().join("dump.rdb"), made_of.databases()).await?;
    let source = Some((draft.reader()?, draft.bytes()));
    let end = draft.offset();
    let start = Start {
        replid: replid.to_owned(),
        offset: end,
        snapshot: source,
        log: None,
        end,
        engine: None,
        epochs: Vec::new(),
    };
    let mut feed = engine.open_feed(start)?;
    engine.apply(&mut feed).await?;
    let found = engine.contents().await?;
    engine.stop().await;
    if found != *saved {
        return Err(MakeError::Rehearsal { found: Box::new(found), saved: Box::new(saved.clone()) });
    }
    Ok(())
}
