//! A seed: the leader brings its whole data set, which replaces the log.

use durability_protocol::Refusal;

use super::rule_switches::{self, Rule};
use super::{Epochs, Origin, Shard};
use crate::base::log_throttle::say;
use crate::snapshots::Draft;
use crate::store::SnapshotRecord;

const INSTALLING: &str = "a seed is being installed; send it again later";

impl Shard {
    /// Whether a seed of the leader of `epoch` at `offset` could be installed now. Asked before it is transferred.
    pub fn check_seed(&self, epoch: u64, replid: &str, offset: u64) -> Result<(), Refusal> {
        self.check_not_failed()?;
        let accepting = self.accepting();
        accepting.epochs.clone().seed(epoch, replid, offset, accepting.end)
    }

    /// Replaces the log by the snapshot in `draft`: base and end become the offset where it stands, and the leader of `epoch`
    /// counts as having begun there under `replid`. What was stored before is left for [`Shard::remove_all_other_snapshots`]. Must
    /// not be dropped half-way.
    pub async fn install_seed(&self, epoch: u64, replid: &str, draft: Draft) -> Result<(), Refusal> {
        let engine = self.accepting().epochs.engine();
        let (record, _stored) = self.store_snapshot(draft, Origin { replid, engine, contents: None }).await?;
        self.install_stored_seed(epoch, replid, record).await
    }

    /// As [`Shard::install_seed`], when the snapshot is stored already. Whoever calls it keeps what is stored until this returns.
    ///
    /// # Errors
    /// The leader of `epoch` does not lead, the seed stands below the log's end, or the log cannot be replaced; then it is as it was.
    pub async fn install_stored_seed(&self, epoch: u64, replid: &str, record: SnapshotRecord) -> Result<(), Refusal> {
        let offset = record.offset;
        let _changing = self.changing.lock().await;
        let (epochs, accepted) = {
            let mut accepting = self.accepting();
            let mut epochs = accepting.epochs.clone();
            epochs.seed(epoch, replid, offset, accepting.end)?;
            accepting.paused = rule_switches::holds(Rule::PausesForSeed).then_some(INSTALLING);
            (epochs, self.accepted_by(&accepting))
        };
        let installed = match self.drain(accepted).await {
            Ok(()) => self.replace_log(&epochs, record).await,
            Err(refusal) => Err(refusal),
        };
        let mut accepting = self.accepting();
        accepting.paused = None;
        installed?;
        accepting.replace_epochs(epochs);
        accepting.end = offset;
        drop(accepting);
        self.announce_switch();
        // First, so that no replica of the old log is sent a byte of the new one.
        self.notifier().restart_streams();
        self.notifier().set_durable(offset);
        self.copies().suspects.clear();
        self.note_copy();
        say!(
            self.lines,
            info,
            "shard {}: seed of epoch {epoch} installed; the log begins at {offset} as {replid}",
            self.name
        );
        Ok(())
    }

    async fn replace_log(&self, epochs: &Epochs, record: SnapshotRecord) -> Result<(), Refusal> {
        let mut manifest = self.store.manifest().next();
        epochs.store_in(&mut manifest);
        manifest.base = record.offset;
        manifest.seeded = true;
        manifest.snapshots = vec![record];
        let store = self.store.clone();
        self.change_manifest(manifest, move |manifest| store.restart(manifest)).await
    }
}
