//! Has another service keep a file, or make a snapshot.

use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::StreamExt;

use super::request::{Reply, Request};
use super::{Made, NotMade, SnapshotFiles};
use crate::snapshots::SnapshotError;
use crate::store::SnapshotRecord;

/// The first pause before it is asked again how far something is. It doubles each time.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// The longest such pause.
const MOST_PAUSE: Duration = Duration::from_millis(250);
/// A service that stores nothing more of a file for so long is given up.
const STALLED: Duration = Duration::from_secs(30);

/// A snapshot that another service has made.
#[derive(Debug)]
pub struct MadeElsewhere {
    /// It.
    pub made: Made,
    /// The name of that service.
    pub by: String,
}

impl SnapshotFiles {
    pub(super) async fn ask(&self, peer: &str, request: &Request) -> Result<Reply, String> {
        let request = serde_json::to_vec(request).map_err(|error| error.to_string())?;
        let reply = self.peers.ask(peer, request).await?;
        Reply::decode(reply).map_err(|error| format!("service {peer} has answered nonsense: {error}"))
    }

    /// Has one other service store the file of `record`. Others that were asked may go on storing it.
    pub(super) async fn have_one_hold(&self, record: &SnapshotRecord) -> Result<(), SnapshotError> {
        let names = self.peers.names();
        let mut asked: FuturesUnordered<_> = names
            .iter()
            .map(|peer| async move { self.have_held(peer, record).await.map_err(|reason| format!("{peer}: {reason}")) })
            .collect();
        let mut reasons = Vec::new();
        while let Some(held) = asked.next().await {
            match held {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(SnapshotError::NotAtTwo { file: record.file.clone(), reason: reasons.join("; ") })
    }

    /// Has `peer` store the file of `record`, which is here, and waits for that. The error is a text for people.
    pub async fn have_held(&self, peer: &str, record: &SnapshotRecord) -> Result<(), String> {
        let request = Request::Hold(Box::new(record.clone()));
        let (mut pause, mut progress) = (LEAST_PAUSE, (0, Instant::now()));
        loop {
            match self.ask(peer, &request).await? {
                Reply::Held => return Ok(()),
                Reply::Underway(bytes) if bytes > progress.0 => progress = (bytes, Instant::now()),
                Reply::Underway(bytes) if progress.1.elapsed() > STALLED => {
                    return Err(format!("it has stored nothing for {} s after {bytes} bytes", STALLED.as_secs()));
                }
                Reply::Underway(_) => {}
                Reply::Refused { reason, .. } => return Err(reason),
                Reply::Part(_) | Reply::Made { .. } => return Err("it has answered something else".to_owned()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MOST_PAUSE);
        }
    }

    /// Has `peer` make and store a snapshot of `shard`, of its log up to `least_end` (exclusive) or further, and waits for it.
    ///
    /// # Errors
    /// It has made none.
    pub async fn have_made(&self, peer: &str, shard: &str, least_end: u64) -> Result<MadeElsewhere, NotMade> {
        let not_made = |reason| NotMade { reason, is_final: false };
        let request = Request::Make { shard: shard.to_owned(), least_end };
        let mut pause = LEAST_PAUSE;
        loop {
            match self.ask(peer, &request).await.map_err(not_made)? {
                Reply::Made { record, generation } => {
                    return Ok(MadeElsewhere { made: Made { record: *record, generation }, by: peer.to_owned() })
                }
                Reply::Underway(_) => {}
                Reply::Refused { reason, is_final } => return Err(NotMade { reason, is_final }),
                Reply::Part(_) | Reply::Held => return Err(not_made("it has answered something else".to_owned())),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MOST_PAUSE);
        }
    }
}
