//! `LOG.DROP`: a shard is gone from the moment in which its store is removed; what it held is removed afterwards.
//!
//! The manifest goes last, as it names the shard's snapshots. After a crash the next start of the service finishes the removal.

use std::sync::{Arc, Weak};
use std::time::Duration;

use durability_protocol::{Code, Refusal, NO_LOG_ID};

use super::unserved::Unserved;
use super::{check_name, Service, Slot};
use crate::archive::{Archive, ArchiveError};
use crate::base::log_throttle::{say, LineThrottle};
use crate::shard::Shard;
use crate::snapshots::{place, SnapshotError, SnapshotStore};
use crate::store::{MediumError, RemoveError, RemovedStore};

/// Time until the next attempt to remove what is left; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// The longest such time.
const LAST_RETRY: Duration = Duration::from_secs(600);

/// For lines about dropped shards, which clients with a token can cause.
static DROPPED: LineThrottle = LineThrottle::of(100);

impl Service {
    /// Drops the shard of that name for good, if its log's id is `log_id`. Unless `force` is set, nobody may use it, and no key may be
    /// missing. When this returns, the shard is gone, also after a crash, and its name is free. Its log and snapshots are removed in the
    /// background.
    ///
    /// # Errors
    /// The shard still exists; or, with [`Code::LogFailed`], only a restart of the service shows whether it does.
    pub async fn drop_shard(self: &Arc<Self>, name: &str, log_id: &str, force: bool) -> Result<(), Refusal> {
        check_name(name)?;
        let _one_at_a_time = self.dropping.lock().await;
        if let Some(groups) = self.groups().filter(|_| !self.is_alone()) {
            return self.drop_in_cluster(groups, name, log_id, force).await;
        }
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
        let (stores, of) = (self.options.stores.clone(), name.to_owned());
        let removed = tokio::task::spawn_blocking(move || stores.remove(&of)).await;
        match removed {
            Ok(Ok(removed)) => {
                self.lock().remove(name);
                self.switches.forget(name);
                say!(DROPPED, warn, "shard {name} is dropped; what it held is removed from {removed}");
                self.finish_drop(removed, shard);
                Ok(())
            }
            Ok(Err(RemoveError::Unchanged(error))) => {
                if self.options.stores.exists(name) {
                    // The next command on it opens it again.
                    self.lock().insert(name.to_owned(), Arc::default());
                }
                Err(Refusal::new(Code::Err, format!("shard '{name}' is not dropped: {error}")))
            }
            Ok(Err(RemoveError::Unknown(error))) => Err(self.note_unknown(name, &error.to_string())),
            Err(error) => Err(self.note_unknown(name, &error.to_string())),
        }
    }

    /// Until a restart shows whether the shard still exists, no shard of that name is served.
    fn note_unknown(&self, name: &str, error: &str) -> Refusal {
        let reason = format!("whether shard '{name}' is dropped shows when the service is restarted: {error}");
        tracing::error!("shard {name}: {reason}");
        let slot = Slot::from(Err(Unserved { is_in_doubt: true, ..Unserved::new(reason.clone(), String::new()) }));
        self.lock().insert(name.to_owned(), Arc::new(slot));
        Refusal::new(Code::LogFailed, reason)
    }

    /// Removes what a dropped shard held, until all of it is gone. Waits for the last user of `shard`, who may still store a snapshot of it.
    /// Must run within the runtime.
    pub(super) fn finish_drop(&self, removed: Arc<dyn RemovedStore>, shard: Weak<Shard>) {
        let (snapshots, cleaning) = (self.options.snapshots.clone(), self.cleaning.clone());
        tokio::spawn(async move {
            let (mut wait, mut is_told) = (FIRST_RETRY, false);
            loop {
                let turn = cleaning.acquire().await;
                let is_released = shard.strong_count() == 0;
                match remove_contents(&removed, &snapshots, is_released).await {
                    Ok(true) => {
                        say!(DROPPED, info, "{removed} is removed, with its snapshots");
                        return;
                    }
                    Ok(false) if std::mem::replace(&mut is_told, true) => {}
                    Ok(false) => say!(DROPPED, info, "{removed} is removed once nobody uses what it holds"),
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

/// Removes what a dropped shard held. Returns whether all of it is gone, which is never so before `is_released`.
async fn remove_contents(
    removed: &Arc<dyn RemovedStore>,
    snapshots: &Arc<SnapshotStore>,
    is_released: bool,
) -> Result<bool, RemovalError> {
    let of = removed.clone();
    let manifest = blocking(move || {
        of.remove_log()?;
        Ok(of.manifest()?)
    });
    let are_gone = match manifest.await? {
        Some(Ok(manifest)) => {
            // Backups are for shards that were dropped by mistake as well.
            let archive = Archive::new(snapshots.clone(), place(&manifest));
            match archive.files().await?.len() {
                0 => snapshots.remove_all(&manifest, is_released).await?,
                kept if !is_released => kept > 0,
                kept => {
                    say!(DROPPED, info, "{removed}: {kept} snapshots stay, in the archive of {}", archive.place());
                    true
                }
            }
        }
        // The manifest is removed last: only the directory was left by a crash.
        None => true,
        Some(Err(reason)) => {
            tracing::warn!("{removed}: which snapshots belong to it is not known, so they stay: {reason}");
            true
        }
    };
    if is_released && are_gone {
        let of = removed.clone();
        blocking(move || Ok(of.finish()?)).await?;
    }
    Ok(is_released && are_gone)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RemovalError> + Send + 'static,
) -> Result<T, RemovalError> {
    tokio::task::spawn_blocking(work).await?
}

/// Why something of a dropped shard is left.
#[derive(Debug, thiserror::Error)]
enum RemovalError {
    #[error(transparent)]
    Store(#[from] MediumError),
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("it did not finish: {0}")]
    Unfinished(#[from] tokio::task::JoinError),
}

pub(super) fn check_id(name: &str, own: &str, log_id: &str) -> Result<(), Refusal> {
    if own == log_id {
        return Ok(());
    }
    Err(Refusal::new(Code::OtherLog, format!("{own} is the id of the log of shard '{name}', not {log_id}")))
}
