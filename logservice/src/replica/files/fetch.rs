//! Takes a file from another service, part by part. At most one part is on its way for each file.

use std::sync::Arc;

use super::request::{Reply, Request};
use super::{lock, SnapshotFiles};
use crate::snapshots::{Incoming, SnapshotError};
use crate::store::SnapshotRecord;

/// The longest part. A request has a bound of its own (`wire/request.rs`).
pub(super) const PART_BYTES: u64 = 512 << 10;

impl SnapshotFiles {
    /// Fetches the file of `record` from one of `peers`, asked in that order, unless it is here already and not `is_damaged`. If one is lost
    /// in the middle, the next one goes on from there. `progress` is told how many bytes have come.
    ///
    /// # Errors
    /// None of them has it, or it cannot be stored.
    pub(super) async fn fetch_from(
        &self,
        record: &SnapshotRecord,
        peers: Vec<String>,
        is_damaged: bool,
        progress: impl Fn(u64),
    ) -> Result<(), SnapshotError> {
        let turn = lock(&self.fetching).entry(record.file.clone()).or_default().clone();
        let fetched = {
            let _one_at_a_time = turn.lock().await;
            self.fetch_alone(record, peers, is_damaged, progress).await
        };
        drop(turn);
        // Whoever waits for its turn holds it.
        lock(&self.fetching).retain(|_, turn| Arc::strong_count(turn) > 1);
        fetched
    }

    async fn fetch_alone(
        &self,
        record: &SnapshotRecord,
        peers: Vec<String>,
        is_damaged: bool,
        progress: impl Fn(u64),
    ) -> Result<(), SnapshotError> {
        if !is_damaged && self.store.is_here(record).await? {
            return Ok(());
        }
        let mut begun: Option<Incoming> = None;
        let mut reasons = Vec::new();
        for peer in peers {
            let incoming = match begun.take() {
                Some(incoming) => incoming,
                None => self.begin(record).await?,
            };
            let (incoming, come) = self.take_from(&peer, record, incoming, &progress).await?;
            if let Err(reason) = come {
                reasons.push(format!("{peer}: {reason}"));
                begun = Some(incoming);
                continue;
            }
            match self.store.keep(incoming).await {
                Ok(_stored) => {
                    tracing::info!("snapshot {} was fetched from service {peer}, {} bytes", record.file, record.bytes);
                    return Ok(());
                }
                // That service's is damaged: begun anew with the next one.
                Err(error @ SnapshotError::Damaged { .. }) => reasons.push(format!("{peer}: {error}")),
                Err(error) => return Err(error),
            }
        }
        let reason = if reasons.is_empty() { "no other service is known".to_owned() } else { reasons.join("; ") };
        Err(SnapshotError::NotFetched { file: record.file.clone(), reason })
    }

    async fn begin(&self, record: &SnapshotRecord) -> Result<Incoming, SnapshotError> {
        let (store, of) = (self.store.clone(), record.clone());
        blocking(record, move || store.incoming(&of)).await
    }

    /// Takes all that is missing from one service; answers what has come, and why that is not all.
    async fn take_from(
        &self,
        peer: &str,
        record: &SnapshotRecord,
        mut incoming: Incoming,
        progress: &impl Fn(u64),
    ) -> Result<(Incoming, Result<(), String>), SnapshotError> {
        while incoming.missing_bytes() > 0 {
            let bytes = incoming.missing_bytes().min(PART_BYTES);
            let request = Request::Read { file: record.file.clone(), from: incoming.bytes(), bytes };
            let part = match self.ask(peer, &request).await {
                Ok(Reply::Part(part)) if !part.is_empty() && part.len() as u64 <= bytes => part,
                Ok(Reply::Refused { reason, .. }) => return Ok((incoming, Err(reason))),
                Ok(_) => return Ok((incoming, Err("it has answered something else".to_owned()))),
                Err(reason) => return Ok((incoming, Err(reason))),
            };
            incoming = blocking(record, move || incoming.write(&part).map(|()| incoming)).await?;
            progress(incoming.bytes());
        }
        Ok((incoming, Ok(())))
    }
}

async fn blocking<T: Send + 'static>(
    record: &SnapshotRecord,
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // A panic, which has been reported.
        Err(error) => Err(SnapshotError::Read { file: record.file.clone(), source: std::io::Error::other(error) }),
    }
}
