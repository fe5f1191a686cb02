//! One attempt: a snapshot, here or at another service, or an audit. Each is a task of its own, and tells `turns.rs` how it ended.

use std::sync::Arc;
use std::time::Instant;

use durability_protocol::{Code, Refusal};
use tokio::sync::oneshot;

use super::turns::{bytes_to_go_through, Asked, Ended, Waiting};
use super::{elsewhere, make, refusal, MakeError, SnapshotterOptions};
use crate::audit::{self, AuditError, Report};
use crate::replica::files::{Made, NotMade};
use crate::service::Service;
use crate::shard::Shard;
use crate::store::SnapshotRecord;

/// Why an attempt is ended before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It takes longer than its data explains, and others wait.
    OthersWait,
    /// It takes longer than its data explains, and is begun again with more of a core.
    Starves,
}

impl Reason {
    /// The error of a snapshot that was begun then.
    fn of(self, began: Instant) -> MakeError {
        let after = began.elapsed();
        match self {
            Reason::OthersWait => MakeError::GaveWay { after },
            Reason::Starves => MakeError::Starved { after },
        }
    }
}

/// Makes a snapshot, and sends the result to those who requested it.
pub(super) async fn snapshot(
    shard: Arc<Shard>,
    options: Arc<SnapshotterOptions>,
    ended_early: oneshot::Receiver<Reason>,
    replies: Option<Vec<oneshot::Sender<Result<SnapshotRecord, Refusal>>>>,
) -> Ended {
    shard.note_snapshotting(true, None);
    let since = Since::now(&shard);
    let made = make_unless_ended(&shard, &options, ended_early).await;
    if let Err(starved @ MakeError::Starved { .. }) = &made {
        // The next one is begun at once. This one is no failure.
        tracing::warn!("shard {}: a snapshot is not done: {starved}", shard.name());
        shard.note_snapshotting(false, None);
        return Ended { log_id: shard.log_id(), due: None, is_left: None };
    }
    shard.note_snapshotting(false, Some(made.as_ref().err().map(ToString::to_string)));
    ended(&shard, since, replies, made.map_err(refusal))
}

/// What there was when an attempt began.
struct Since {
    /// Exclusive end of the log.
    end: u64,
    /// Where the newest snapshot stood.
    newest: Option<u64>,
}

impl Since {
    fn now(shard: &Shard) -> Self {
        let newest = shard.store().manifest().newest_snapshot().map(|newest| newest.offset);
        Since { end: shard.notifier().progress().visible, newest }
    }
}

/// Tells those who requested it, and `turns.rs`, what became of a snapshot that was begun `since`.
fn ended(
    shard: &Shard,
    since: Since,
    replies: Option<Vec<oneshot::Sender<Result<SnapshotRecord, Refusal>>>>,
    made: Result<SnapshotRecord, Refusal>,
) -> Ended {
    let grown_bytes = made.is_ok().then(|| shard.notifier().progress().visible.saturating_sub(since.end));
    // A new snapshot counts, whether it was requested or due. The failure of a requested one does not delay one that is due.
    let is_new = made.as_ref().is_ok_and(|record| Some(record.offset) != since.newest);
    let due = (replies.is_none() || is_new).then_some(grown_bytes);
    tell(replies, &made);
    Ended { log_id: shard.log_id(), due, is_left: None }
}

/// Makes one here, unless the shard ends, or `ended_early` says why the attempt has to.
async fn make_unless_ended(
    shard: &Arc<Shard>,
    options: &SnapshotterOptions,
    ended_early: oneshot::Receiver<Reason>,
) -> Result<SnapshotRecord, MakeError> {
    let began = Instant::now();
    tokio::select! {
        made = make::make(shard, options) => made,
        refusal = shard.notifier().ended() => Err(refusal.into()),
        reason = told(ended_early) => Err(reason.of(began)),
    }
}

fn tell(
    replies: Option<Vec<oneshot::Sender<Result<SnapshotRecord, Refusal>>>>,
    made: &Result<SnapshotRecord, Refusal>,
) {
    for reply in replies.into_iter().flatten() {
        // The client may be gone.
        let _ = reply.send(made.clone());
    }
}

/// Has another service make a snapshot, and records it.
pub(super) async fn snapshot_elsewhere(
    service: Arc<Service>,
    shard: Arc<Shard>,
    options: Arc<SnapshotterOptions>,
    replies: Option<Vec<oneshot::Sender<Result<SnapshotRecord, Refusal>>>>,
) -> Ended {
    shard.note_snapshotting(true, None);
    let since = Since::now(&shard);
    let bounds = &options.engine.bounds;
    let made = tokio::select! {
        made = elsewhere::make(&service, &shard, options.keep, bounds.time_for(bytes_to_go_through(&shard))) => made,
        refusal = shard.notifier().ended() => Err(elsewhere::Failed::ForGood(refusal)),
    };
    let made = match made {
        Ok(record) => Ok(record),
        Err(elsewhere::Failed::ForGood(refusal)) => Err(refusal),
        Err(elsewhere::Failed::MadeHereNext(reason)) => {
            tracing::warn!(
                "shard {}: this service makes a snapshot itself, as no other one has: {reason}",
                shard.name()
            );
            shard.note_snapshotting(false, None);
            let log_id = shard.log_id();
            let left = Waiting { shard, work: Asked::Snapshot(replies.unwrap_or_default()) };
            return Ended { log_id, due: None, is_left: Some(left) };
        }
    };
    shard.note_snapshotting(false, Some(made.as_ref().err().map(ToString::to_string)));
    ended(&shard, since, replies, made)
}

/// Makes a snapshot that the service that decides records.
pub(super) async fn snapshot_for_decider(
    shard: Arc<Shard>,
    options: Arc<SnapshotterOptions>,
    ended_early: oneshot::Receiver<Reason>,
    reply: oneshot::Sender<Result<Made, NotMade>>,
) -> Ended {
    shard.note_snapshotting(true, None);
    let generation = shard.store().manifest().generation;
    let made = make_unless_ended(&shard, &options, ended_early).await;
    shard.note_snapshotting(false, Some(made.as_ref().err().map(ToString::to_string)));
    let made = made.map(|record| Made { record, generation });
    let made = made.map_err(|error| NotMade { is_final: error.is_of_the_log(), reason: error.to_string() });
    // Who decides may have given up.
    let _ = reply.send(made);
    Ended { log_id: shard.log_id(), due: None, is_left: None }
}

pub(super) async fn audit(
    shard: Arc<Shard>,
    options: Arc<SnapshotterOptions>,
    ended_early: oneshot::Receiver<Reason>,
    keys: u64,
    mut reply: oneshot::Sender<Result<Report, Refusal>>,
) -> Ended {
    let began = Instant::now();
    let given_up = async {
        tokio::select! {
            () = reply.closed() => AuditError::Abandoned,
            _ = told(ended_early) => AuditError::GaveWay { after: began.elapsed() },
            refusal = shard.notifier().ended() => refusal.into(),
        }
    };
    let done = audit::run(&shard, &options.engine, keys, given_up).await;
    // The client may be gone.
    let _ = reply.send(done.map_err(|error| Refusal::new(Code::Err, format!("no audit: {error}"))));
    Ended { log_id: shard.log_id(), due: None, is_left: None }
}

/// Waits until this attempt has to end, and says why.
async fn told(ended_early: oneshot::Receiver<Reason>) -> Reason {
    match ended_early.await {
        Ok(reason) => reason,
        // Nobody can end it any more.
        Err(_) => std::future::pending().await,
    }
}
