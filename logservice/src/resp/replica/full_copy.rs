//! A full copy of the shard for a replica: waiting until there is one, and sending it.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::BytesMut;
use durability_protocol::{Code, Refusal};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::follower::{Beginning, Follower};
use super::FollowError;
use crate::resp::reply::{self, Protocol};
use crate::shard::{FullCopy, NoCopy, Unreadable};
use crate::snapshots::EMPTY_RDB;

/// How often a replica that waits for a full copy is sent an empty line, which it takes for a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

impl Follower {
    /// A full copy, as soon as there is one; `None` if the service stops. If there is none for long, the replica is told to come again, and
    /// is judged anew then.
    pub(super) async fn wait_for_copy(
        &mut self,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<Option<FullCopy>, FollowError> {
        let mut is_last = false;
        loop {
            let shard = self.shard.clone();
            // In a task, so that others learn the result even if this replica disconnects meanwhile.
            let mut asked = tokio::spawn(async move { shard.full_copy_for_replica().await });
            let found = loop {
                tokio::select! {
                    found = &mut asked => break found.map_err(std::io::Error::other)?,
                    alive = self.stay_alive() => alive?,
                    _ = shutdown.changed() => return Ok(None),
                }
            };
            let NoCopy { reason, until } = match found {
                Ok(copy) => return Ok(Some(copy)),
                Err(no_copy) => no_copy,
            };
            if std::mem::replace(&mut is_last, true) {
                return self
                    .refuse(&Refusal::new(Code::NoMasterLink, reason.clone()))
                    .await
                    .and(Err(FollowError::NoCopy(reason)));
            }
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(until.into()) => break,
                    alive = self.stay_alive() => alive?,
                    _ = shutdown.changed() => return Ok(None),
                }
            }
        }
    }

    /// Waits until a sign of life was sent or something was read.
    ///
    /// # Errors
    /// The connection ended.
    async fn stay_alive(&mut self) -> Result<(), FollowError> {
        self.input.reserve(1024);
        let Ok(read) = tokio::time::timeout(SIGN_OF_LIFE, self.stream.read_buf(&mut self.input)).await else {
            return self.send(b"\n").await;
        };
        if read? == 0 {
            return Err(FollowError::Connection(ErrorKind::UnexpectedEof.into()));
        }
        Ok(self.take_commands()?)
    }

    /// Answers `PSYNC` with a full copy, and sends it. Returns where the stream continues.
    pub(super) async fn send_copy(&mut self, copy: FullCopy) -> Result<Beginning, FollowError> {
        let FullCopy { replid, offset, snapshot, stream, pin } = copy;
        let bytes = snapshot.as_ref().map_or(EMPTY_RDB.len() as u64, |(record, _)| record.bytes);
        self.stall_clock.loads(Duration::from_secs(bytes / self.patience.load_bytes_per_s.max(1)));
        self.send(format!("+FULLRESYNC {replid} {offset}\r\n${bytes}\r\n").as_bytes()).await?;
        match snapshot {
            None => self.send(EMPTY_RDB).await?,
            Some((record, mut reader)) => loop {
                match reader.next().await {
                    Ok(Some(chunk)) => self.send(&chunk).await?,
                    Ok(None) => break,
                    Err(error) => {
                        if error.is_of_one() {
                            self.shard.note_unreadable(&record, &error);
                        }
                        // The replica comes again at once.
                        let unreadable = Unreadable { offset, source: error };
                        self.shard.note_no_copy(&unreadable.to_string());
                        return Err(unreadable.into());
                    }
                }
            },
        }
        self.shard.note_copy();
        Ok(Beginning { offset, stream, pin })
    }

    async fn refuse(&mut self, refusal: &Refusal) -> Result<(), FollowError> {
        let mut out = BytesMut::new();
        reply::encode(&mut out, &reply::error(refusal), Protocol::default());
        self.send(&out).await
    }
}
