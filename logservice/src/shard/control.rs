//! Changes of leadership: stored first, then in force.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use durability_protocol::{Code, Refusal, RELEASE_WAIT_MS};

use super::rule_switches::{self, Rule};
use super::{Accepting, Epochs, Held, LeaseLeft, Node, Renewal, Shard, Successor, Ticket};
use crate::base::log_throttle::say;
use crate::store::{Manifest, ManifestError};

/// The longest that a change of leadership waits for accepted appends to become durable.
const DRAIN_AT_MOST: Duration = Duration::from_secs(10);

/// See [`RELEASE_WAIT_MS`].
const RELEASE_AT_MOST: Duration = Duration::from_millis(RELEASE_WAIT_MS);

/// Stands where the address of a node would that has not told it.
const UNKNOWN_ADDRESS: &str = "-";

impl Shard {
    /// Makes `node` the leader if nobody else is and `held` is the log up to its end. Answers its epoch and that end once both
    /// are durable.
    pub async fn acquire(&self, node: Node<'_>, held: Held<'_>, lease_ms: u64) -> Result<(u64, u64), Refusal> {
        if let (Some(version), Some(writer)) = (node.engine, self.store.manifest().engine()) {
            version.check_reads(writer)?;
        }
        self.check_contradicted_by_none(node.node_id)?;
        self.drain_before_grant(self.accepted()).await?;
        let _changing = self.changing.lock().await;
        let (before, mut next, accepted) = {
            let mut accepting = self.accepting();
            accepting.epochs.check_free(&self.name, node.node_id, self.environment.now())?;
            accepting.epochs.check_not_led_by(&self.name, node.process)?;
            accepting.epochs.check_still_newest(held.seen, self.environment.now())?;
            if rule_switches::holds(Rule::ChecksHeld) {
                accepting.epochs.check_held(held, accepting.end)?;
            }
            // Again: some may have come while it waited.
            self.check_contradicted_by_none(node.node_id)?;
            let before = accepting.epochs.clone();
            // From here on the leader before cannot move the end. What it has in flight must be durable first, since
            // it may be acknowledged after the new epoch was given out.
            if rule_switches::holds(Rule::ClosesBeforeGrant) {
                accepting.change_epochs(Epochs::close);
            }
            (before.clone(), before, self.accepted_by(&accepting))
        };
        let epoch = before.epoch() + 1;
        next.grant(epoch, node, lease_ms, self.environment.now());
        let stored = match self.drain_before_grant(accepted).await {
            Ok(()) => self.store_epochs(&next).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = stored {
            self.set_epochs(before);
            return Err(refusal);
        }
        next.renew(epoch, lease_ms, self.environment.now())?;
        self.set_epochs(next);
        let Node { node_id, address, .. } = node;
        say!(self.lines, info, "shard {}: {node_id} at {address} leads in epoch {epoch} from {}", self.name, held.end);
        Ok((epoch, held.end))
    }

    /// Extends the lease from now, if no other service has been made to decide over the log since this was asked: that one would count
    /// the lease from then on only, and the node counts it from when it asked.
    ///
    /// A service that has just been made to decide does not know which renewals the one before it has granted. A late one may ask for a
    /// shorter lease than the node has been granted since. So until that lease is over, it is extended by its whole length instead.
    pub async fn renew(&self, renewal: Renewal) -> Result<(), Refusal> {
        let renewal = self.with_kept_length(renewal);
        self.renew_here(renewal).await?;
        self.confirm().await
    }

    fn with_kept_length(&self, renewal: Renewal) -> Renewal {
        let mut accepting = self.accepting();
        let Some(until) = accepting.keeps_length_until else { return renewal };
        if self.environment.now() >= until {
            accepting.keeps_length_until = None;
            return renewal;
        }
        let is_shorter = |&kept: &u64| renewal.lease_ms > 0 && (kept == 0 || renewal.lease_ms < kept);
        let kept = accepting.epochs.lease_ms_of(renewal.epoch).filter(is_shorter);
        Renewal { lease_ms: kept.unwrap_or(renewal.lease_ms), ..renewal }
    }

    async fn renew_here(&self, renewal: Renewal) -> Result<(), Refusal> {
        if self.renew_at_once(renewal, false)? {
            return Ok(());
        }
        let _changing = self.changing.lock().await;
        if self.renew_at_once(renewal, true)? {
            return Ok(());
        }
        let mut next = {
            let mut accepting = self.accepting();
            accepting.check_in_order(renewal)?;
            accepting.epochs.clone()
        };
        next.renew(renewal.epoch, renewal.lease_ms, self.environment.now())?;
        self.store_epochs(&next).await?;
        self.accepting().renew(renewal).map(drop)
    }

    /// Extends the lease if nothing has to be stored for that, so that no renewal waits for the disk. False if its length changes,
    /// or is being changed by one that was sent before, which this one must not overtake; and while another leader is being
    /// granted it: whether that succeeds says whether there is anything to renew. `is_alone` if nothing is being changed.
    fn renew_at_once(&self, renewal: Renewal, is_alone: bool) -> Result<bool, Refusal> {
        let mut accepting = self.accepting();
        self.check_terms_known(&accepting)?;
        let overtakes = !is_alone && accepting.is_length_changing(renewal);
        if overtakes || !accepting.epochs.is_leased_as(renewal.epoch, renewal.lease_ms) {
            return Ok(false);
        }
        accepting.check_in_order(renewal)?;
        accepting.renew(renewal).map(|()| true)
    }

    /// Frees the lease of `epoch`, whose leader cannot append from then on, and answers nobody any more. With `successor`, for that node
    /// alone for so long; a restart of the service forgets that. The one counts that an operator has named who takes the lease.
    pub async fn resign(&self, epoch: u64, successor: Option<(&str, Duration)>) -> Result<(), Refusal> {
        let _changing = self.changing.lock().await;
        self.free(epoch, successor).await
    }

    /// As [`Shard::resign`], for an operator who knows that the leader is gone for good.
    pub async fn force_release(&self, epoch: u64, successor: Option<(&str, Duration)>) -> Result<(), Refusal> {
        self.revoke(epoch, successor)?;
        self.resign(epoch, successor).await
    }

    /// As [`Shard::resign`], for who has locked [`Shard::changing`].
    async fn free(&self, epoch: u64, successor: Option<(&str, Duration)>) -> Result<(), Refusal> {
        let mut next = self.accepting().epochs.clone();
        next.release(epoch)?;
        self.store_epochs(&next).await?;
        if let Some(successor) = self.successor(successor) {
            next.reserve(&successor, self.environment.now());
        }
        self.set_epochs(next);
        let now = self.environment.now();
        let left_to = self.accepting().epochs.reserved_for(now).map(|node_id| format!(", left to {node_id}"));
        say!(self.lines, info, "shard {}: epoch {epoch} released{}", self.name, left_to.unwrap_or_default());
        Ok(())
    }

    fn successor(&self, successor: Option<(&str, Duration)>) -> Option<Successor> {
        let (node_id, time) = successor?;
        let address = self.nodes().address(node_id).unwrap_or(UNKNOWN_ADDRESS).to_owned();
        Some(Successor { node_id: node_id.to_owned(), address, time })
    }

    /// Takes the lease of `epoch` from a leader that may live and answer its clients: it can append and renew no more, and its lease is
    /// free when it has resigned, or when that has passed. Waits for either; then it is left to `successor` as in [`Shard::resign`], unless
    /// somebody leads again already. The waiting ends when `gone` does, whose refusal is the answer: the lease stays taken, and expires as
    /// it would have done.
    ///
    /// # Errors
    /// [`Code::Leased`] if the lease never expires and the leader does not resign; it still cannot append.
    pub async fn release(
        &self,
        epoch: u64,
        successor: Option<(&str, Duration)>,
        gone: impl Future<Output = Refusal>,
    ) -> Result<(), Refusal> {
        let mut gone = pin!(gone);
        let mut changes = self.accepting().watch_versions();
        let mut leader = self.revoke(epoch, successor)?;
        if let Some(leader) = &leader {
            say!(self.lines, info, "shard {}: the lease of epoch {epoch} is taken from {leader}", self.name);
        }
        let deadline = self.environment.now() + RELEASE_AT_MOST;
        loop {
            changes.mark_unchanged();
            self.check_not_ended()?;
            if is_over(self.lease_left_to(epoch)) || !rule_switches::holds(Rule::WaitsForResignation) {
                // A change may be under way that fails, and leaves the lease as it was.
                let _changing = self.changing.lock().await;
                if self.accepting().epochs.epoch() > epoch {
                    return Ok(());
                }
                // If the lease was being granted to another node then, and that has failed, the leader before has it back. And from here on no
                // renewal comes between.
                if !self.accepting().epochs.is_revoked(epoch) {
                    leader = self.revoke(epoch, successor)?.or(leader);
                }
                match self.lease_left_to(epoch) {
                    // The leader has resigned: that has left it to whom it is to be left.
                    LeaseLeft::Nobody if leader.is_some() => return Ok(()),
                    left if is_over(left) || !rule_switches::holds(Rule::WaitsForResignation) => {
                        return self.free(epoch, successor).await
                    }
                    _ => {}
                }
            }
            let until = match self.lease_left_to(epoch) {
                LeaseLeft::Forever if self.environment.now() >= deadline => {
                    let text = format!(
                        "{} - -1 does not answer, and its lease never expires: if that process is gone for good, free it with: \
                         LOG.RELEASE {} {epoch} FORCE",
                        leader.as_deref().unwrap_or("the leader"),
                        self.name
                    );
                    return Err(Refusal::new(Code::Leased, text));
                }
                LeaseLeft::Forever => deadline,
                LeaseLeft::For(left) => self.environment.now() + left,
                LeaseLeft::Nobody => continue,
            };
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = self.environment.sleep_until(until) => {}
                // Only here: what is being stored is stored to its end.
                refusal = &mut gone => return Err(refusal),
            }
        }
    }

    /// Takes from the leader of `epoch` the right to append and renew; what it gives back is left to `successor`. Answers its name, if
    /// somebody leads.
    fn revoke(&self, epoch: u64, successor: Option<(&str, Duration)>) -> Result<Option<String>, Refusal> {
        let successor = self.successor(successor);
        let mut accepting = self.accepting();
        let mut revoked = Ok(());
        accepting.change_epochs(|epochs| revoked = epochs.revoke(epoch, successor.as_ref()));
        revoked?;
        Ok(accepting.epochs.leader().map(|leader| leader.node_id.clone()))
    }

    /// How long the leader of `epoch` may answer its clients.
    fn lease_left_to(&self, epoch: u64) -> LeaseLeft {
        let accepting = self.accepting();
        match accepting.epochs.epoch() == epoch {
            true => accepting.epochs.lease_left(self.environment.now()),
            false => LeaseLeft::Nobody,
        }
    }

    /// The leader of `epoch` begins to write at `offset` under `replid`.
    pub async fn begin(&self, epoch: u64, replid: &str, offset: u64) -> Result<(), Refusal> {
        let _changing = self.changing.lock().await;
        let (before, mut next, end) = {
            let accepting = self.accepting();
            (accepting.epochs.replid().to_owned(), accepting.epochs.clone(), accepting.end)
        };
        if !next.begin(epoch, replid, offset, end)? {
            return Ok(());
        }
        self.store_epochs(&next).await?;
        self.set_epochs(next);
        if before != replid {
            self.notifier().restart_streams();
        }
        say!(self.lines, info, "shard {}: epoch {epoch} writes from {offset} as {replid}", self.name);
        Ok(())
    }

    async fn drain_before_grant(&self, accepted: Ticket) -> Result<(), Refusal> {
        match rule_switches::holds(Rule::DrainsBeforeGrant) {
            true => self.drain(accepted).await,
            false => Ok(()),
        }
    }

    /// Waits until everything that `accepted` covers is durable.
    pub(super) async fn drain(&self, accepted: Ticket) -> Result<(), Refusal> {
        self.check_not_failed()?;
        let drained = self.environment.timeout(DRAIN_AT_MOST, self.notifier().wait_durable(accepted)).await;
        self.check_not_failed()?;
        match drained {
            Some(true) => Ok(()),
            Some(false) => Err(Refusal::new(Code::NoSpace, "appends were refused for want of space; ask again")),
            None => Err(Refusal::new(Code::Err, "appends before are not durable yet; ask again")),
        }
    }

    /// Refuses when the log has failed, or was dropped.
    pub fn check_not_failed(&self) -> Result<(), Refusal> {
        self.notifier().progress().refusal().map_or(Ok(()), Err)
    }

    /// Refuses when a restart might find another leader than the one in force. Not as one who is fenced: nobody is known to have
    /// taken over, so the leader gives nothing up.
    fn check_terms_known(&self, accepting: &Accepting) -> Result<(), Refusal> {
        self.check_not_ended()?;
        if !accepting.are_terms_in_doubt || !rule_switches::holds(Rule::DoubtsUnknownOutcomes) {
            return Ok(());
        }
        let reason = self.notifier().progress().failed.unwrap_or_default();
        let text = format!("no lease is renewed, as a restart of the service may find another leader: {reason}");
        Err(Refusal::new(Code::LogFailed, text))
    }

    fn set_epochs(&self, epochs: Epochs) {
        self.accepting().replace_epochs(epochs);
        self.announce_switch();
    }

    async fn store_epochs(&self, epochs: &Epochs) -> Result<(), Refusal> {
        let mut manifest = self.store.manifest().next();
        epochs.store_in(&mut manifest);
        manifest.seeded |= manifest.epochs.iter().any(|entry| entry.epoch > 0 && entry.replid.is_some());
        let store = self.store.clone();
        self.check_not_failed()?;
        let stored = self.write_manifest(manifest, move |manifest| store.replace_manifest(manifest)).await;
        if stored.as_ref().is_err_and(|refusal| refusal.code == Code::LogFailed) {
            // Before the epochs that were in force are so again.
            self.accepting().are_terms_in_doubt = true;
        }
        stored
    }

    /// Runs a change of the manifest that leaves it the same leader and lease.
    pub(super) async fn change_manifest(
        &self,
        manifest: Manifest,
        change: impl FnOnce(Manifest) -> Result<(), ManifestError> + Send + 'static,
    ) -> Result<(), Refusal> {
        self.check_not_failed()?;
        self.write_manifest(manifest, change).await
    }

    fn is_superseded_by(&self, error: &ManifestError) -> bool {
        // A log that was kept alone is closed when it is kept by a group from then on.
        let may_be = matches!(error, ManifestError::Unknown(_) | ManifestError::Closed);
        matches!(error, ManifestError::NotLeader) || may_be && !self.decides()
    }

    /// Changes the manifest where it may block. After a change whose outcome is not known the shard counts as failed: what it
    /// would answer from then on might not be what a restart finds.
    async fn write_manifest(
        &self,
        manifest: Manifest,
        change: impl FnOnce(Manifest) -> Result<(), ManifestError> + Send + 'static,
    ) -> Result<(), Refusal> {
        if !rule_switches::holds(Rule::AnswersWhatIsStored) {
            self.environment.spawn_blocking(Box::new(move || drop(change(manifest))));
            return Ok(());
        }
        let changed = self.environment.run_blocking(move || change(manifest)).await;
        let reason = match changed {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(ManifestError::NoSpace(error))) => return Err(Refusal::new(Code::NoSpace, error.to_string())),
            // Known or not: whoever decides over the log now says which manifest is in force.
            Ok(Err(error)) if self.is_superseded_by(&error) => return Err(self.not_leader()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => format!("the change of the manifest did not finish: {error}"),
        };
        tracing::error!("shard {}: {reason}", self.name);
        self.notifier().set_failed(&reason);
        Err(Refusal::new(Code::LogFailed, reason))
    }
}

/// Whether nobody has the lease any more of which that is left.
fn is_over(left: LeaseLeft) -> bool {
    left == LeaseLeft::Nobody || left == LeaseLeft::For(Duration::ZERO)
}
