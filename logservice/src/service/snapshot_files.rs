//! Snapshots of shards that several services keep: what is missing here is fetched, and snapshots are made for the service that decides.

use std::sync::Arc;
use std::time::Duration;

use super::engine_work::EngineWork;
use super::Service;
use crate::replica::files::{Made, MadeElsewhere, MakesSnapshots, NotMade, SnapshotFiles};
use crate::replica::groups::Answer;
use crate::shard::Shard;

/// How often it is looked whether the snapshots of a shard are here, if nothing happens.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// The first pause before something that could not be fetched is tried again. It doubles each time, up to [`LOOK_INTERVAL`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// How long a service that is behind waits at most until it has what a snapshot has to hold.
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(5);

/// Keeps up with what the service that decides does with snapshots, until the shard has ended: fetches what is not here, and drops log and
/// snapshots that are not needed any more.
pub(super) async fn follow(shard: &Shard) {
    let mut bases = shard.followed_base();
    let mut wanted = shard.snapshots().wanted();
    let mut pause = FIRST_RETRY;
    loop {
        // First, so that no change goes unnoticed after the look.
        let base = *bases.borrow_and_update();
        wanted.mark_unchanged();
        // Before and after, as fetching may take long.
        follow_base(shard, base).await;
        let missing = shard.fetch_missing_snapshots().await;
        follow_base(shard, base).await;
        shard.remove_superseded_snapshots().await;
        let next = if missing > 0 { pause } else { LOOK_INTERVAL };
        pause = if missing > 0 { (pause * 2).min(LOOK_INTERVAL) } else { FIRST_RETRY };
        tokio::select! {
            changed = bases.changed() => if changed.is_err() { return std::future::pending().await },
            // The sender lives as long as the shard's snapshots do. Who asks is not to have it fetched more often than the pause allows.
            _ = wanted.changed(), if missing == 0 => {}
            () = tokio::time::sleep(next) => {}
        }
    }
}

async fn follow_base(shard: &Shard, base: u64) {
    if !shard.decides() {
        shard.follow_base(base).await;
    }
}

impl Service {
    /// Makes snapshots for other services from now on, if there are others.
    pub(super) fn make_for_others(&self) {
        let (Some(files), Some(this)) = (&self.options.files, self.this.upgrade()) else { return };
        let maker: Arc<dyn MakesSnapshots> = this;
        files.made_by(&maker);
    }

    /// How other services are asked to make snapshots; none if there is no other.
    pub fn files(&self) -> Option<&Arc<SnapshotFiles>> {
        self.options.files.as_ref()
    }

    /// Has a service that follows make a snapshot of what is in the log now.
    ///
    /// # Errors
    /// No other service has made one.
    pub async fn have_snapshot_made(&self, shard: &Shard) -> Result<MadeElsewhere, NotMade> {
        let none = |reason: &str| NotMade { reason: reason.to_owned(), is_final: false };
        let files = self.files().ok_or_else(|| none("no other service keeps the log"))?;
        let least_end = shard.notifier().progress().visible;
        let copies = self.copies(shard).await.into_iter();
        let mut copies: Vec<_> =
            copies.filter(|copy| !copy.decides && copy.is_heard && copy.service.is_connected).collect();
        // The one that is behind least has most of it in its caches.
        copies.sort_by_key(|copy| std::cmp::Reverse(copy.matched));
        let mut failed = none("no other service is connected and up to date");
        for copy in copies {
            match files.have_made(&copy.service.name, shard.name(), least_end).await {
                Ok(made) => return Ok(made),
                Err(error) if error.is_final => return Err(error),
                Err(error) => failed = none(&format!("service {}: {error}", copy.service.name)),
            }
        }
        Err(failed)
    }

    /// Has the service called `by` store all snapshots of a shard over whose log this one decides.
    pub(super) async fn have_snapshots_held(&self, shard: &str, by: &str) -> Result<(), String> {
        let shard = self.served_shard(shard).ok_or_else(|| format!("shard '{shard}' is not served here"))?;
        let Some(files) = self.files().filter(|_| shard.snapshots().has_others()) else { return Ok(()) };
        for record in shard.store().manifest().snapshots {
            files.have_held(by, &record).await?;
        }
        Ok(())
    }

    async fn make_for_decider(&self, name: &str, least_end: u64) -> Result<Made, NotMade> {
        let not_made = |reason: String| NotMade { reason, is_final: false };
        let shard = self.served_shard(name).ok_or_else(|| not_made(format!("shard '{name}' is not served here")))?;
        if shard.decides() {
            return Err(not_made("this service decides over the log itself".to_owned()));
        }
        let mut progress = shard.notifier().subscribe();
        let is_there = progress.wait_for(|progress| progress.visible >= least_end);
        if !tokio::time::timeout(CATCHES_UP_WITHIN, is_there).await.is_ok_and(|there| there.is_ok()) {
            return Err(not_made(format!("this service is behind: its log does not reach {least_end} yet")));
        }
        let made = self.queue_engine_work(shard, EngineWork::SnapshotForDecider).await;
        made.unwrap_or_else(|| Err(not_made("the service is stopping".to_owned())))
    }
}

impl MakesSnapshots for Service {
    fn make<'a>(&'a self, shard: &'a str, least_end: u64) -> Answer<'a, Result<Made, NotMade>> {
        Box::pin(self.make_for_decider(shard, least_end))
    }
}
