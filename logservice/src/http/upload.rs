//! `PUT /shards/{shard}/snapshot`: a leader uploads its whole data set, with which its log begins.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::Extension;
use bytes::Bytes;
use durability_protocol::{is_valid_replid, Code, Known, Refusal};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::gate::{HttpState, Proof, Refused};
use super::places::Visitor;
use crate::access::login::{self, Login};
use crate::connections::limits::Patience;
use crate::shard::Shard;
use crate::snapshots::{Draft, SnapshotError};

/// Chunks of a body on their way from the socket to the disk.
const CHUNKS_IN_FLIGHT: usize = 8;

/// The stream that the uploaded data set belongs to, and its offset.
#[derive(Debug, Deserialize)]
pub struct InitialSnapshot {
    epoch: u64,
    offset: u64,
    replid: String,
    /// The id of the log that it is meant for; `None` if any will do.
    log: Option<String>,
}

/// `PUT /shards/{shard}/snapshot?epoch=E&offset=N&replid=R[&log=ID]`: the leader's whole data set as an RDB.
pub async fn put_snapshot(
    State(HttpState { service, limits, .. }): State<HttpState>,
    Extension(visitor): Extension<Arc<Visitor>>,
    Path(name): Path<String>,
    Query(snapshot): Query<InitialSnapshot>,
    Extension(Proof { mut login, .. }): Extension<Proof>,
    body: Body,
) -> Result<&'static str, Refused> {
    if !is_valid_replid(&snapshot.replid) {
        return Err(Refusal::new(Code::Err, "replid must have 40 lower-case hexadecimal digits").into());
    }
    if i64::try_from(snapshot.offset).is_err() {
        return Err(Refusal::new(Code::Err, "offset out of range").into());
    }
    let shard = service.shard(&name).await?;
    shard.check_decides()?;
    if let Some(log) = &snapshot.log {
        shard.judge_known(&Known::new(log.as_str()))?;
    }
    shard.check_seed(snapshot.epoch, &snapshot.replid, snapshot.offset)?;
    let mut place = visitor.upload(&name)?;
    let draft = tokio::select! {
        draft = receive(shard.clone(), &snapshot, body, &limits.patience) => draft?,
        () = place.displaced() => return Err(Refused::Displaced),
        refusal = shard.notifier().ended() => return Err(refusal.into()),
        () = withdrawn(&mut login) => return Err(login::withdrawn().into()),
    };
    // In a task of its own, so that it is finished if the client disconnects now.
    let installed = tokio::spawn(async move {
        let installed = shard.install_seed(snapshot.epoch, &snapshot.replid, draft).await;
        // Not waited for: an object store may be slow, and the leader's clients wait for this upload.
        tokio::spawn(async move { shard.remove_all_other_snapshots().await });
        installed
    })
    .await;
    installed.map_err(|error| Refusal::new(Code::LogFailed, error.to_string()))??;
    Ok("ok\n")
}

/// Waits until the login is withdrawn; for ever where none is needed.
async fn withdrawn(login: &mut Option<Login>) {
    match login {
        Some(login) => login.withdrawn().await,
        None => std::future::pending().await,
    }
}

/// Judges whether an upload is fast enough. Only time in which the service waits for it counts.
struct Pace {
    least_bytes: u64,
    within: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn new(patience: &Patience) -> Self {
        Pace { least_bytes: patience.upload_bytes, within: patience.http_stalled, waited: Duration::ZERO, bytes: 0 }
    }

    /// Adds `bytes` that arrived after `waited`. Returns whether that is fast enough.
    fn note(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < self.within {
            return true;
        }
        let is_enough = self.bytes >= self.least_bytes;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        is_enough
    }

    fn least(&self) -> String {
        format!("{} bytes came in {} s", self.least_bytes, self.within.as_secs_f32())
    }
}

/// Streams a body into a draft of a snapshot. If the body breaks off, stalls or is too slow, the draft is removed.
async fn receive(
    shard: Arc<Shard>,
    snapshot: &InitialSnapshot,
    body: Body,
    patience: &Patience,
) -> Result<Draft, Refused> {
    let (chunks, incoming) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let offset = snapshot.offset;
    let writing = tokio::task::spawn_blocking(move || write_draft(&shard, offset, incoming));
    let passed_on = pass_on(body, chunks, patience).await;
    let written = writing.await.map_err(|error| Refusal::new(Code::Err, error.to_string()))?;
    match (written, passed_on) {
        (Ok(draft), Ok(())) => Ok(draft),
        (Ok(_), Err(reason)) => Err(Refusal::new(Code::Err, reason).into()),
        (Err(error), _) if error.is_no_space() => Err(Refusal::new(Code::NoSpace, error.to_string()).into()),
        (Err(error), _) => Err(Refusal::new(Code::Err, error.to_string()).into()),
    }
}

/// Writes chunks into a draft until there are no more. Blocks on I/O.
fn write_draft(shard: &Shard, offset: u64, mut chunks: mpsc::Receiver<Bytes>) -> Result<Draft, SnapshotError> {
    let mut draft = shard.snapshots().draft(&shard.store().manifest(), offset)?;
    while let Some(chunk) = chunks.blocking_recv() {
        draft.write(&chunk)?;
    }
    draft.finish()?;
    Ok(draft)
}

/// Passes a body on, until it or the writer of `chunks` ends. The error says why the body is not complete.
async fn pass_on(body: Body, chunks: mpsc::Sender<Bytes>, patience: &Patience) -> Result<(), String> {
    let mut body = body.into_data_stream();
    let mut bytes: u64 = 0;
    let mut pace = Pace::new(patience);
    loop {
        let waiting = Instant::now();
        let Ok(chunk) = tokio::time::timeout(patience.http_stalled, body.next()).await else {
            let seconds = patience.http_stalled.as_secs_f32();
            return Err(format!("the upload stood still for {seconds} s after {bytes} bytes"));
        };
        let Some(chunk) = chunk else { break };
        let came = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if !pace.note(waiting.elapsed(), came) {
            return Err(format!("the upload is too slow: after {bytes} bytes less than {}", pace.least()));
        }
        let chunk = chunk.map_err(|error| format!("the upload broke off after {bytes} bytes: {error}"))?;
        bytes += chunk.len() as u64;
        if chunks.send(chunk).await.is_err() {
            break;
        }
    }
    if bytes == 0 {
        return Err("the body is empty".to_owned());
    }
    Ok(())
}
