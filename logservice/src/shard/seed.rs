//! A seed: the leader brings its whole data set, which replaces the log.

use durability_protocol::Refusal;

use super::Shard;
use crate::store::SnapshotWriter;

const INSTALLING: &str = "a seed is being installed; send it again later";

impl Shard {
    /// Whether a seed of the leader of `epoch` at `offset` could be installed now. Asked before it is transferred.
    pub fn check_seed(&self, epoch: u64, replid: &str, offset: u64) -> Result<(), Refusal> {
        self.check_not_failed()?;
        let accepting = self.accepting();
        accepting.terms.clone().seed(epoch, replid, offset, accepting.end)
    }

    /// Replaces the log by the snapshot in `writer`: base and end become `offset`, and the leader of `epoch` counts as
    /// having begun there under `replid`. Must not be dropped half-way.
    pub async fn install_seed(
        &self,
        epoch: u64,
        replid: &str,
        offset: u64,
        writer: Box<dyn SnapshotWriter>,
    ) -> Result<(), Refusal> {
        let _changing = self.changing.lock().await;
        let (terms, end) = {
            let mut accepting = self.accepting();
            let mut terms = accepting.terms.clone();
            terms.seed(epoch, replid, offset, accepting.end)?;
            accepting.paused = Some(INSTALLING);
            (terms, accepting.end)
        };
        let installed = match self.drain(end).await {
            Ok(()) => self.replace_log(&terms, replid, offset, writer).await,
            Err(refusal) => Err(refusal),
        };
        let mut accepting = self.accepting();
        accepting.paused = None;
        installed?;
        accepting.terms = terms;
        accepting.end = offset;
        drop(accepting);
        self.notifier().set_durable(offset);
        self.notifier().restart_streams();
        tracing::info!("shard {}: seed of epoch {epoch} installed; the log begins at {offset} as {replid}", self.name);
        Ok(())
    }

    async fn replace_log(
        &self,
        terms: &super::Terms,
        replid: &str,
        offset: u64,
        writer: Box<dyn SnapshotWriter>,
    ) -> Result<(), Refusal> {
        let mut manifest = self.store.manifest().next();
        terms.store_in(&mut manifest);
        manifest.base = offset;
        manifest.seeded = true;
        let replid = replid.to_owned();
        let finished = tokio::task::spawn_blocking(move || writer.finish(&replid)).await;
        let refused = |text: String| Refusal::new(durability_protocol::Code::Err, text);
        manifest.snapshot = match finished {
            Ok(Ok(record)) => Some(record),
            Ok(Err(error)) => return Err(refused(error.to_string())),
            Err(error) => return Err(refused(error.to_string())),
        };
        let store = self.store.clone();
        self.change_manifest(manifest, move |manifest| store.restart(manifest)).await
    }
}
