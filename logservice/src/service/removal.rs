//! `LOG.DROP`: a shard's directory is renamed, which is the moment from which it is gone, and what it held is removed afterwards.
//!
//! The manifest goes last, as it says which snapshots belong to the shard; a start of the service goes on where a crash has left off.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use durability_protocol::{Code, Refusal, NO_LOG_ID};

use super::{check_name, Service, Slot, Unserved};
use crate::shard::Shard;
use crate::snapshots::{SnapshotError, SnapshotStore};
use crate::store::file_store::files::ReplaceError;
use crate::store::file_store::remove;
use crate::store::FileError;
use crate::throttle::{say, LineThrottle};

/// How long after a part was removed, or could not be, it is looked again; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// The longest.
const LAST_RETRY: Duration = Duration::from_secs(600);

/// Shards that are dropped, as often as whoever has a token likes.
static DROPPED: LineThrottle = LineThrottle::of(100);

impl Service {
    /// Drops the shard of that name for good if its log's id is `log_id`, and nobody uses it unless `force`. With `force` only
    /// if no more than a key is missing. When this returns it is
    /// gone, also after a crash, and its place is free; its log and snapshots are removed meanwhile.
    ///
    /// # Errors
    /// It is still there, unless it is said not to be known: then a restart of the service shows it.
    pub async fn drop_shard(self: &Arc<Self>, name: &str, log_id: &str, force: bool) -> Result<(), Refusal> {
        check_name(name)?;
        let _one_at_a_time = self.dropping.lock().await;
        let slot = self.lock().get(name).cloned().ok_or_else(|| Refusal::no_shard(name))?;
        let shard = match self.opened(name, slot).await {
            Ok(shard) => {
                check_id(name, &shard.log_id(), log_id)?;
                shard.retire(force).await?;
                Arc::downgrade(&shard)
            }
            Err(unserved @ Unserved { is_in_doubt: true, .. }) => return Err(unserved.into()),
            Err(Unserved { log_id: own, reason, is_locked, .. }) if !own.is_empty() => {
                check_id(name, &own, log_id)?;
                if is_locked && !force {
                    let text = format!("shard '{name}' lacks nothing but a key: to drop it all the same, LOG.DROP {name} {own} FORCE; {reason}");
                    return Err(Refusal::new(Code::Err, text));
                }
                Weak::new()
            }
            Err(_) if log_id == NO_LOG_ID && force => Weak::new(),
            Err(Unserved { reason, .. }) => {
                let text = format!("the log_id of shard '{name}' cannot be read: drop it with LOG.DROP {name} {NO_LOG_ID} FORCE; {reason}");
                return Err(Refusal::new(Code::Err, text));
            }
        };
        let directory = self.shard_directory(name);
        let moved = tokio::task::spawn_blocking(move || remove::set_aside(&directory)).await;
        match moved {
            Ok(Ok(path)) => {
                self.lock().remove(name);
                say!(DROPPED, warn, "shard {name} is dropped; what it held is removed from {}", path.display());
                self.finish_drop(path, shard);
                Ok(())
            }
            Ok(Err(ReplaceError::Unchanged(error))) => {
                if self.shard_directory(name).is_dir() {
                    // It is opened anew when somebody asks for it.
                    self.lock().insert(name.to_owned(), Arc::default());
                }
                Err(Refusal::new(Code::Err, format!("shard '{name}' is not dropped: {error}")))
            }
            Ok(Err(ReplaceError::Unknown(error))) => Err(self.note_unknown(name, &error.to_string())),
            Err(error) => Err(self.note_unknown(name, &error.to_string())),
        }
    }

    /// Nobody knows whether a restart finds the shard, so until then there is none of that name.
    fn note_unknown(&self, name: &str, error: &str) -> Refusal {
        let reason = format!("whether shard '{name}' is dropped shows when the service is restarted: {error}");
        tracing::error!("shard {name}: {reason}");
        let slot = Slot::from(Err(Unserved { is_in_doubt: true, ..Unserved::new(reason.clone(), String::new()) }));
        self.lock().insert(name.to_owned(), Arc::new(slot));
        Refusal::new(Code::LogFailed, reason)
    }

    /// Removes what a dropped shard held, until all of it is gone: not before nobody has `shard` any more, as who makes a snapshot
    /// of it may store that meanwhile. Must run within the runtime.
    pub(super) fn finish_drop(&self, path: PathBuf, shard: Weak<Shard>) {
        let (snapshots, cleaning) = (self.options.snapshots.clone(), self.cleaning.clone());
        tokio::spawn(async move {
            let (mut wait, mut is_told) = (FIRST_RETRY, false);
            loop {
                let turn = cleaning.acquire().await;
                let is_released = shard.strong_count() == 0;
                match remove_contents(&path, &snapshots, is_released).await {
                    Ok(true) => {
                        say!(DROPPED, info, "{} is removed, with its snapshots", path.display());
                        return;
                    }
                    Ok(false) if std::mem::replace(&mut is_told, true) => {}
                    Ok(false) => say!(DROPPED, info, "{} is removed once nobody uses what it holds", path.display()),
                    Err(error) => {
                        tracing::warn!("a dropped shard is not removed yet, tried again in {wait:?}: {error}")
                    }
                }
                drop(turn);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LAST_RETRY);
            }
        });
    }
}

/// Removes what a dropped shard held. Answers whether all of it is gone; never if somebody may still have the shard.
async fn remove_contents(path: &Path, snapshots: &SnapshotStore, is_released: bool) -> Result<bool, RemovalError> {
    let of = path.to_owned();
    let manifest = blocking(move || {
        remove::remove_log(&of)?;
        Ok(remove::manifest_set_aside(&of)?)
    });
    let are_gone = match manifest.await? {
        Some(Ok(manifest)) => snapshots.remove_all(&manifest, is_released).await?,
        // The last thing that went before a crash.
        None => true,
        Some(Err(reason)) => {
            tracing::warn!("{}: which snapshots belong to it is not known, so they stay: {reason}", path.display());
            true
        }
    };
    if is_released && are_gone {
        let of = path.to_owned();
        blocking(move || Ok(remove::remove_rest(&of)?)).await?;
    }
    Ok(is_released && are_gone)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RemovalError> + Send + 'static,
) -> Result<T, RemovalError> {
    tokio::task::spawn_blocking(work).await?
}

/// Why something of a dropped shard is still there.
#[derive(Debug, thiserror::Error)]
enum RemovalError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    #[error("it did not finish: {0}")]
    Unfinished(#[from] tokio::task::JoinError),
}

fn check_id(name: &str, own: &str, log_id: &str) -> Result<(), Refusal> {
    if own == log_id {
        return Ok(());
    }
    Err(Refusal::new(Code::OtherLog, format!("{own} is the id of the log of shard '{name}', not {log_id}")))
}
