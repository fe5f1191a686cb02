//! Named backups: a snapshot that is made now, and kept under a name until somebody removes it.

use std::sync::Arc;

use durability_protocol::{is_valid_name, Code, Refusal};

use super::Service;
use crate::archive::{Archive, ArchiveError, ArchivedSnapshot, NamedBackup};
use crate::base::printable::printable;
use crate::shard::Shard;
use crate::snapshots::place;
use crate::store::SnapshotRecord;

impl Service {
    /// Makes a snapshot of what is in the log now, unless the newest is that, and keeps it as the backup `name`. It is durable when this
    /// returns.
    ///
    /// # Errors
    /// The service has no `--keep`, the name is taken or cannot be one, no snapshot was made, or its name could not be stored.
    pub async fn back_up(&self, shard: Arc<Shard>, name: &str) -> Result<SnapshotRecord, Refusal> {
        let watch = shard.archive().ok_or_else(|| {
            refusal("this service keeps nothing for a time: start it with --keep TIME and --snapshots URL".to_owned())
        })?;
        if !is_valid_name(name) {
            return Err(refusal("a name has 1 to 64 of A-Z a-z 0-9 . _ : -, and does not begin with a dot".to_owned()));
        }
        let archive = Archive::new(shard.snapshots().clone(), place(&shard.store().manifest()));
        check_free(&archive, name).await?;
        let record = self.make_snapshot(shard.clone()).await?;
        // From here on its file is not removed, if it is still there.
        let _kept = shard.snapshots().hold(&record.file);
        let manifest = shard.store().manifest();
        if !manifest.snapshots.iter().any(|named| named.file == record.file) {
            return Err(refusal("another snapshot took its place meanwhile: make another".to_owned()));
        }
        let (generation, offset, time_ms) = (manifest.generation, record.offset, record.time_ms);
        let snapshot = ArchivedSnapshot {
            engine: manifest.engine(),
            databases: manifest.databases(),
            ..ArchivedSnapshot::new(generation, offset, time_ms, Some(record.clone()))
        };
        let of = snapshot
            .name()
            .ok_or_else(|| refusal(format!("the snapshot has a file of another form: {}", record.file)))?;
        // Not held while a snapshot is made, as log is not archived meanwhile.
        let _naming = watch.naming.lock().await;
        check_free(&archive, name).await?;
        let backup = NamedBackup { name: name.to_owned(), snapshot: of };
        archive.put_backup(&backup, &snapshot).await.map_err(failed)?;
        watch.add_file(&record.file);
        tracing::info!("shard {}: the snapshot at offset {offset} is kept as the backup {name}", shard.name());
        Ok(record)
    }
}

fn refusal(text: String) -> Refusal {
    Refusal::new(Code::Err, format!("no backup was made: {text}"))
}

fn failed(error: ArchiveError) -> Refusal {
    refusal(printable(&error.to_string()))
}

async fn check_free(archive: &Archive, name: &str) -> Result<(), Refusal> {
    match archive.backups().await.map_err(failed)?.iter().any(|backup| backup.name == name) {
        true => Err(refusal(format!("there is a backup named {name} already: give another name"))),
        false => Ok(()),
    }
}
