//! Snapshots that several services keep, each in a directory of its own.
//!
//! Where all services reach one place (an object store), none of this is used: a snapshot that is stored is at all of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};

use object_store::ObjectStoreExt;
use tokio::sync::watch;

use super::{check_size, snapshot_offset, SnapshotError, SnapshotStore};
use crate::store::SnapshotRecord;

/// What other services are asked for.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Result<(), SnapshotError>> + Send + 'a>>;

/// The other services that keep the same snapshots. Any thread may call it.
pub trait OtherServices: Send + Sync {
    /// Stores the snapshot of `record` here, from a service that has it. It is verified and durable when this returns. What is here already
    /// is kept, unless it `is_damaged`.
    fn fetch<'a>(&'a self, record: &'a SnapshotRecord, is_damaged: bool) -> Asked<'a>;

    /// Has another service store the snapshot of `record`, which is here. It is durable there when this returns.
    fn spread<'a>(&'a self, record: &'a SnapshotRecord) -> Asked<'a>;
}

/// Those of a [`SnapshotStore`].
#[derive(Default)]
pub(super) struct Others {
    services: OnceLock<Weak<dyn OtherServices>>,
    /// Changes when somebody has asked for a snapshot that is not here.
    wanted: watch::Sender<()>,
}

impl Others {
    /// They; none if there are none, or this service is stopping.
    fn services(&self) -> Option<Arc<dyn OtherServices>> {
        self.services.get()?.upgrade()
    }

    /// Somebody has asked for a snapshot that is not here.
    pub fn want(&self) {
        self.wanted.send_replace(());
    }
}

impl std::fmt::Debug for Others {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Others").field("are_known", &self.services.get().is_some()).finish()
    }
}

impl SnapshotStore {
    /// From now on `others` keep the same snapshots, each in a directory of its own, and are asked for as long as somebody else keeps them.
    /// Ignored where all services reach one place, and the second time.
    pub fn share_with(&self, others: &Arc<dyn OtherServices>) {
        if self.local.is_some() {
            // Set once, when the service starts.
            let _ = self.others.services.set(Arc::downgrade(others));
        }
    }

    /// Whether other services keep the same snapshots, each in a directory of its own.
    pub fn has_others(&self) -> bool {
        self.others.services.get().is_some()
    }

    /// Has whoever fetches look again: a snapshot is not here, or damaged.
    pub fn want(&self) {
        self.others.want();
    }

    /// Changes when somebody has asked for a snapshot that is not here, and others have it.
    pub fn wanted(&self) -> watch::Receiver<()> {
        self.others.wanted.subscribe()
    }

    /// Stores the snapshot of `record` here, from another service, unless it is here. Where all services reach one place, it has to be there.
    ///
    /// # Errors
    /// It is not here, and could not be fetched.
    pub async fn fetch(&self, record: &SnapshotRecord) -> Result<(), SnapshotError> {
        match self.is_here(record).await? {
            true => Ok(()),
            false => self.fetch_anew(record, false).await,
        }
    }

    /// As [`SnapshotStore::fetch`], in the place of what is here if that `is_damaged`.
    ///
    /// # Errors
    /// It could not be fetched.
    pub async fn fetch_anew(&self, record: &SnapshotRecord, is_damaged: bool) -> Result<(), SnapshotError> {
        match self.others.services() {
            Some(others) => others.fetch(record, is_damaged).await,
            None => Err(SnapshotError::NotHere { file: record.file.clone() }),
        }
    }

    /// Has another service store the snapshot of `record`, if others keep the same snapshots: no state may name a snapshot that is at one
    /// service only.
    ///
    /// # Errors
    /// No other service has stored it.
    pub async fn spread(&self, record: &SnapshotRecord) -> Result<(), SnapshotError> {
        match self.others.services() {
            Some(others) => others.spread(record).await,
            None if self.has_others() => {
                let reason = "this service is stopping".to_owned();
                Err(SnapshotError::NotAtTwo { file: record.file.clone(), reason })
            }
            None => Ok(()),
        }
    }

    /// Whether the snapshot of `record` is here, with the length that it has to have. Its bytes are not verified.
    ///
    /// # Errors
    /// It cannot be found out.
    pub async fn is_here(&self, record: &SnapshotRecord) -> Result<bool, SnapshotError> {
        let path = self.object_path(&record.file);
        match self.objects.head(&path).await {
            Ok(found) => Ok(check_size(record, found.size).is_ok()),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(SnapshotError::Object { action: "cannot look for", file: record.file.clone(), source }),
        }
    }

    /// At most `most` bytes of what is stored as `file`, from the byte `from` on (inclusive), for another service, which verifies them.
    ///
    /// # Errors
    /// It is not here, or it has no byte there.
    pub async fn part(&self, file: &str, from: u64, most: u64) -> Result<bytes::Bytes, SnapshotError> {
        check_name(file)?;
        let _in_use = self.in_use.begin(file);
        let path = self.object_path(file);
        let failed = |source| SnapshotError::Object { action: "cannot read", file: file.to_owned(), source };
        self.objects.get_range(&path, from..from.saturating_add(most)).await.map_err(failed)
    }
}

/// Refuses a name that no snapshot has: it may come from elsewhere, and becomes a path.
///
/// # Errors
/// It is none.
pub(super) fn check_name(file: &str) -> Result<(), SnapshotError> {
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
    };
    let is_name = |(place, name): (&str, &str)| is_plain(place) && is_plain(name) && snapshot_offset(name).is_some();
    match file.split_once('/').is_some_and(is_name) {
        true => Ok(()),
        false => Err(SnapshotError::Name { file: file.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_but_to_a_snapshot() {
        for good in ["s1-0a/00000000000000000042-0000002a.rdb", "a.b:c_d-e-0a/00000000000000000042-0000002a.rdb"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let name = "00000000000000000042-0000002a.rdb";
        let wrong = ["", "/", name, "../x", "s1/../../x.rdb", "s1/MANIFEST", "s1/00000000000000000042-1.rdb.partial"];
        let wrong = wrong.map(str::to_owned).into_iter();
        for wrong in wrong.chain(["..", ".", ".hidden", "a/b", "a\\b", "a%2fb"].map(|place| format!("{place}/{name}")))
        {
            assert!(matches!(check_name(&wrong), Err(SnapshotError::Name { .. })), "{wrong}");
        }
    }
}
