//! Makes snapshots off the leader: an engine applies the newest snapshot and the log after it, saves, and what it saved is
//! checked and rehearsed before it is stored, recorded, and the log below it dropped. One at a time for the whole service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durability_protocol::{Code, EngineVersion, Refusal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::engine::{background, inspect_rdb, Engine, EngineError, EngineOptions, Feed, Start};
use crate::service::Service;
use crate::shard::{Origin, Position, Shard};
use crate::snapshots::{Draft, SnapshotError};
use crate::store::{Contents, ReadError, SnapshotRecord};

/// How often it is looked whether a shard's log has grown enough.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long after a failure the next attempt is made; doubled with each that follows.
const FIRST_RETRY: Duration = Duration::from_secs(30);
/// The longest that an attempt is put off.
const LAST_RETRY: Duration = Duration::from_secs(3600);

/// How snapshots are made.
#[derive(Debug, Clone)]
pub struct SnapshotterOptions {
    /// With which engine.
    pub engine: EngineOptions,
    /// How many are kept of each shard; at least one is.
    pub keep: usize,
    /// One is made when the log since the last is longer than this, and than that one; 0: only on request.
    pub log_bytes: u64,
}

/// Asks for a snapshot of a shard.
pub struct Request {
    /// Of which.
    pub shard: Arc<Shard>,
    /// Who waits for it.
    pub reply: oneshot::Sender<Result<SnapshotRecord, Refusal>>,
}

/// Why a snapshot was not made. What was there before stands.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// Nothing was ever written.
    #[error("the log holds nothing yet")]
    Empty,
    /// No whole command came since the last one.
    #[error("nothing that can be applied was written since offset {0}")]
    NothingNew(u64),
    /// The engine that is installed would write what the nodes cannot load.
    #[error("valkey-server here is of version {found}, and the log was written by {writer}: install {writer} here, or upgrade the nodes")]
    OtherEngine {
        /// The engine's.
        found: EngineVersion,
        /// The log's.
        writer: EngineVersion,
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
    /// The RDB says that it stands elsewhere.
    #[error("the RDB stands at {found}, not at {expected}")]
    Position {
        /// Replication id and offset in the RDB.
        found: String,
        /// Those that it should have.
        expected: String,
    },
    /// What was loaded from the RDB is not what was saved.
    #[error("the rehearsal found other data than was saved: {found:?} instead of {saved:?}")]
    Rehearsal {
        /// After loading.
        found: Contents,
        /// Before saving.
        saved: Contents,
    },
    /// The shard refuses.
    #[error("{0}")]
    Refused(#[from] Refusal),
}

/// What became of the attempts at a shard's snapshots.
#[derive(Debug, Clone, Copy)]
struct Attempts {
    last: Instant,
    /// After failures.
    not_before: Instant,
    next_wait: Duration,
}

/// Makes snapshots when they are due or asked for, in turn, until `shutdown`.
pub async fn run(
    service: Arc<Service>,
    options: SnapshotterOptions,
    mut requests: mpsc::Receiver<Request>,
    mut shutdown: watch::Receiver<bool>,
) {
    let work = async {
        let mut attempts = BTreeMap::<String, Attempts>::new();
        let mut was_asked = false;
        loop {
            let due = most_overdue(&service, &options, &attempts);
            // Who asks again and again does not keep others from getting theirs.
            let asked = match &due {
                Some(_) if was_asked => None,
                Some(_) => requests.try_recv().ok(),
                None => match tokio::time::timeout(LOOK_INTERVAL, requests.recv()).await {
                    Ok(Some(request)) => Some(request),
                    Ok(None) => return,
                    Err(_) => continue,
                },
            };
            was_asked = asked.is_some();
            let (shard, reply) = match (asked, due) {
                (Some(Request { shard, reply }), _) => (shard, Some(reply)),
                (None, Some(shard)) => (shard, None),
                (None, None) => continue,
            };
            shard.note_snapshotting(true, None);
            let made = make(&shard, &options).await;
            let error = made.as_ref().err().map(ToString::to_string);
            shard.note_snapshotting(false, Some(error.clone()));
            if let Some(error) = &error {
                tracing::error!("shard {}: no snapshot was made: {error}", shard.name());
            }
            match reply {
                // An attempt that was asked for says nothing of those that are not.
                Some(reply) => {
                    // Who asked may be gone.
                    let _ = reply.send(made.map_err(refusal));
                }
                None => {
                    let before = attempts.get(shard.name()).copied();
                    attempts.insert(shard.name().to_owned(), Attempts::after(before, error.is_some()));
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = shutdown.wait_for(|stopping| *stopping) => {}
    }
}

impl Attempts {
    fn after(before: Option<Self>, has_failed: bool) -> Self {
        let now = Instant::now();
        let wait = before.map_or(FIRST_RETRY, |before| before.next_wait);
        match has_failed {
            true => Attempts { last: now, not_before: now + wait, next_wait: (wait * 2).min(LAST_RETRY) },
            false => Attempts { last: now, not_before: now, next_wait: FIRST_RETRY },
        }
    }
}

/// Of the shards that are due and may be tried, the one that was tried longest ago.
fn most_overdue(
    service: &Service,
    options: &SnapshotterOptions,
    attempts: &BTreeMap<String, Attempts>,
) -> Option<Arc<Shard>> {
    let now = Instant::now();
    let may_try = |shard: &Arc<Shard>| attempts.get(shard.name()).is_none_or(|attempts| now >= attempts.not_before);
    let due = service.open_shards().into_iter().filter(|shard| is_due(shard, options.log_bytes)).filter(may_try);
    due.min_by_key(|shard| attempts.get(shard.name()).map(|attempts| attempts.last))
}

fn refusal(error: MakeError) -> Refusal {
    match error {
        MakeError::Refused(Refusal { code, detail }) => Refusal::new(code, format!("no snapshot was made: {detail}")),
        error => Refusal::new(Code::Err, format!("no snapshot was made: {error}")),
    }
}

/// Whether the log since the last snapshot is long enough.
fn is_due(shard: &Shard, log_bytes: u64) -> bool {
    if log_bytes == 0 {
        return false;
    }
    let manifest = shard.store().manifest();
    let (offset, bytes) = manifest.newest_snapshot().map_or((manifest.base, 0), |newest| (newest.offset, newest.bytes));
    shard.notifier().progress().visible.saturating_sub(offset) > log_bytes.max(bytes)
}

/// Makes a snapshot of what is durable now.
async fn make(shard: &Shard, options: &SnapshotterOptions) -> Result<SnapshotRecord, MakeError> {
    let started = Instant::now();
    let made_of = shard.store().manifest();
    let Position::Full { replid, offset, snapshot, pin, .. } = shard.position_of("", None)? else {
        return Err(MakeError::Empty);
    };
    let end = shard.notifier().progress().visible;
    if end == offset {
        // Nothing came since, so the last one is as new as one can be.
        return snapshot.ok_or(MakeError::Empty);
    }
    let writer = made_of.engine();
    // A directory of its own: an engine that is killed while it saves leaves a file whose name only it knows.
    let directory = tempfile::Builder::new().prefix("engine-").tempdir_in(shard.snapshots().draft_directory(&made_of)?);
    let directory = directory.map_err(|source| EngineError::System { action: "cannot create a directory", source })?;
    let file = directory.path().join("dump.rdb");

    let mut engine = Engine::start(&options.engine, &file).await?;
    let version = engine.version();
    if let Some(writer) = writer.filter(|writer| !version.is_like(*writer)) {
        return Err(MakeError::OtherEngine { found: version, writer });
    }
    let source = match &snapshot {
        Some(record) => Some((shard.snapshots().get(record).await?, record.bytes)),
        None => None,
    };
    let log = Some(shard.store().reader(offset)?);
    let start = Start { replid: replid.clone(), offset, snapshot: source, log, end, engine: writer };
    let mut feed = Feed::open(start, options.engine.is_background).map_err(EngineError::from)?;
    let applied = engine.apply(&mut feed).await?;
    if applied <= offset {
        return Err(MakeError::NothingNew(offset));
    }
    engine.save().await?;
    let saved = engine.contents().await?;
    engine.stop().await;
    drop(feed);
    // What was applied may go, as soon as the snapshot counts.
    drop(pin);

    let facts = inspect_rdb(&options.engine, &file).await?;
    let expected = (replid, applied);
    if facts.position.as_ref() != Some(&expected) {
        let say = |(replid, offset): &(String, u64)| format!("offset {offset} of {replid}");
        let found = facts.position.as_ref().map_or_else(|| "no offset".to_owned(), say);
        return Err(MakeError::Position { found, expected: say(&expected) });
    }
    let (store, manifest, written) = (shard.snapshots().clone(), made_of.clone(), file.clone());
    let adopted = background::run(move || store.adopt(&manifest, applied, &written)).await;
    let draft = adopted.map_err(|error| SnapshotError::Read { file: file.display().to_string(), source: error })??;
    let (replid, _) = expected;
    rehearse(&draft, &replid, &saved, options).await?;
    let bytes = draft.bytes();
    let origin = Origin { replid: &replid, engine: Some(version), contents: Some(saved) };
    let record = shard.keep_snapshot(&made_of, draft, origin, options.keep).await?;
    tracing::info!(
        "shard {}: snapshot at offset {applied}, {bytes} bytes, made and rehearsed in {} ms",
        shard.name(),
        started.elapsed().as_millis()
    );
    Ok(record)
}

/// Loads a draft into a second engine, just as a node would, and compares what it then holds.
async fn rehearse(
    draft: &Draft,
    replid: &str,
    saved: &Contents,
    options: &SnapshotterOptions,
) -> Result<(), MakeError> {
    // It saves nothing.
    let mut engine = Engine::start(&options.engine, &draft.path().with_extension("rehearsal")).await?;
    let source = Some((draft.reader()?, draft.bytes()));
    let end = draft.offset();
    let start = Start { replid: replid.to_owned(), offset: end, snapshot: source, log: None, end, engine: None };
    let mut feed = Feed::open(start, options.engine.is_background).map_err(EngineError::from)?;
    engine.apply(&mut feed).await?;
    let found = engine.contents().await?;
    engine.stop().await;
    if found != *saved {
        return Err(MakeError::Rehearsal { found, saved: saved.clone() });
    }
    Ok(())
}
