//! What the bytes of a shard mean: who may append, what is durable, who is told. Nothing here knows RESP, HTTP or files. Tasks of
//! connections call it, and the store's threads report to it; no lock that an append takes is held across I/O.
//!
//! Read `epochs/` first: epochs, the lease and conditional appends, as plain logic. `control.rs` changes them: stored first, then in
//! force. `notifier.rs` is "tell me when this is durable". After that, by subject:
//!
//! - Appends that were sent before are known by their bytes: `overlap.rs`.
//! - Who leads: `leadership.rs` (versions of leadership, and polls), `lease.rs` (how long it keeps others out), `nodes.rs`,
//!   `arrivals.rs`, `primary.rs` and `switches.rs` (what clients are to know), `identity.rs` (whether this is the log that its nodes know).
//! - A shard of a Valkey cluster: `slots/`.
//! - Data as a whole: `seed.rs` (the leader replaces the log), `snapshot.rs` (recorded, and the log below dropped), `copies.rs` and
//!   `follow.rs` (what a replica gets), `pins.rs` (log that somebody still needs), `own_files.rs` (snapshots that each of several services
//!   keeps for itself), `archive.rs` (what is kept until it is archived), `quota.rs`, `audit.rs`.
//! - A log that several services keep: `standing.rs` (whether this one decides over it), `reported.rs` (what
//!   the one that decides tells the others), `events.rs` (what a store reports).
//! - The end: `dropping.rs`.

mod archive;
mod arrivals;
mod audit;
mod control;
mod copies;
mod differences;
mod dropping;
mod environment;
mod epochs;
mod events;
mod follow;
mod identity;
mod leadership;
mod lease;
mod nodes;
mod notifier;
mod overlap;
mod own_files;
mod pins;
mod primary;
mod quota;
mod reported;
mod rule_switches;
mod seed;
mod slots;
mod snapshot;
mod standing;
mod status;
mod switches;

pub use audit::{AuditState, AuditStatus, Delivery, Inquiry, KeyName};
pub use copies::{CopyError, FullCopy, NoCopy, Unreadable};
pub use differences::Difference;
pub use environment::{Environment, Sleep, SystemEnvironment, Unfinished, Work};
pub use epochs::{Admission, Epochs, Held, Node, Successor};
pub use follow::Position;
pub use leadership::{Poll, Renewal};
pub use lease::LeaseLeft;
pub use nodes::{Heard, NodeStatus, Role};
pub use notifier::{AckMode, DurabilityNotifier, Progress, ProgressListener, Ticket};
pub use overlap::{Overlap, Submitted};
pub use pins::{Cut, Pin};
pub use primary::{Primary, Roles};
pub use reported::{Chosen, Placed, ShardReport, DECIDER_SILENT_AFTER};
#[cfg(feature = "broken-rules")]
pub use rule_switches::{break_rule, Rule};
pub use slots::{Aborted, Claimed, Outcome};
pub use snapshot::Origin;
pub use standing::not_leader;
pub use status::{LogState, Status};
pub use switches::{Switch, Switches};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use durability_protocol::{Code, Refusal};
use tokio::sync::watch;

use self::events::LateEvents;
use self::identity::Contradictions;
use self::leadership::Versions;
use self::nodes::Nodes;
use self::pins::Pins;
use self::reported::Reported;
#[cfg(not(feature = "broken-rules"))]
use self::rule_switches::Rule;
use crate::archive::ArchiveWatch;
use crate::base::latency::Latency;
use crate::base::log_throttle::{say, LineThrottle};
use crate::snapshots::SnapshotStore;
use crate::store::{Append, Manifest, OpenError, Opened, Standing, Store, StoreEvents, SubmitError};

/// One shard of the log.
pub struct Shard {
    name: String,
    /// See [`Shard::log_id`].
    log_id: String,
    environment: Arc<dyn Environment>,
    store: Arc<dyn Store>,
    snapshots: Arc<SnapshotStore>,
    pins: Arc<Pins>,
    snapshotting: Mutex<snapshot::Snapshotting>,
    copies: Mutex<copies::Copies>,
    /// Snapshots that the state names and that are not here, when that was last looked at.
    missing_snapshots: AtomicU64,
    audits: Mutex<audit::Audits>,
    /// None if its log is not archived.
    archive: Option<Arc<ArchiveWatch>>,
    acceptance: Arc<Acceptance>,
    /// Held while the epochs or the manifest are changed and stored. Taken before the acceptance's lock, never while holding it.
    /// Renewals that change nothing that is stored do without; see [`Accepting::replace_terms`].
    changing: tokio::sync::Mutex<()>,
    replicas: AtomicU64,
    append_latency: Latency,
    nodes: Mutex<Nodes>,
    contradictions: Mutex<Contradictions>,
    reported: Mutex<Reported>,
    /// For what whoever has the shard's token can cause as often as they like.
    lines: LineThrottle,
}

/// So many of these lines pass at once.
const LINES_AT_ONCE: u32 = 50;
/// Shards that are opened, made and dropped: so many lines at once, as there are so many when the service starts.
static OPENED: LineThrottle = LineThrottle::of(2000);

/// What decides over an append. Never held across I/O.
struct Acceptance {
    shard: String,
    log_id: String,
    notifier: Arc<DurabilityNotifier>,
    accepting: Mutex<Accepting>,
    switches: Switches,
    /// Whether another service decides over the log.
    follows: bool,
    /// Where clients reach the service to which this one hands the decision over; none if it does not.
    successor: OnceLock<String>,
    /// The base of the log as another service has moved it.
    followed_base: watch::Sender<u64>,
}

struct Accepting {
    environment: Arc<dyn Environment>,
    /// Changed by [`Accepting::change_terms`].
    epochs: Epochs,
    versions: Versions,
    /// The end of the log (exclusive) when everything that was accepted is written.
    end: u64,
    /// Why nothing is accepted for the moment.
    paused: Option<&'static str>,
    /// Whether the last thing the store said was that there is no space.
    no_space: bool,
    /// Whether it failed because its files are damaged.
    is_damaged: bool,
    /// The epoch whose appends were refused last.
    fenced: Option<u64>,
    /// The newest renewal that was taken.
    newest_renewal: Option<Renewal>,
    /// Whether it is not known if the last change of the epochs was stored: a restart may find another leader than these epochs
    /// name, and give it the lease at once.
    are_terms_in_doubt: bool,
    /// Until then no renewal makes the lease shorter; none if that may be at once. See [`Shard::renew`].
    keeps_length_until: Option<Instant>,
}

impl Shard {
    /// Opens a shard with a store that `open` opens. Tells `switches` where clients have to go when that changes. Blocks on I/O.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open(
        name: &str,
        snapshots: Arc<SnapshotStore>,
        switches: Switches,
        open: impl FnOnce(Arc<dyn StoreEvents>) -> Result<Opened, OpenError>,
    ) -> Result<Self, OpenError> {
        Self::open_in(Arc::new(SystemEnvironment), name, snapshots, switches, open)
    }

    /// As [`Shard::open`], in another environment than the operating system's.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open_in(
        environment: Arc<dyn Environment>,
        name: &str,
        snapshots: Arc<SnapshotStore>,
        switches: Switches,
        open: impl FnOnce(Arc<dyn StoreEvents>) -> Result<Opened, OpenError>,
    ) -> Result<Self, OpenError> {
        let events = Arc::new(LateEvents::default());
        let Opened { store, end } = open(events.clone())?;
        let manifest = store.manifest();
        let now = environment.now();
        let follows = matches!(store.standing(), Standing::Follows { .. });
        let epochs = Epochs::from_manifest(&manifest, now);
        let epochs = if follows { epochs.as_followed() } else { epochs };
        let is_replicated = store.standing() != Standing::Alone;
        let keeps_length_until = epochs.kept_until(now).filter(|_| is_replicated);
        let versions = Versions::new(epochs.leadership(now), Versions::first_number(&*environment));
        let accepting = Accepting {
            environment: environment.clone(),
            epochs,
            versions,
            end,
            paused: None,
            no_space: false,
            is_damaged: false,
            fenced: None,
            newest_renewal: None,
            are_terms_in_doubt: false,
            keeps_length_until,
        };
        let notifier = Arc::new(DurabilityNotifier::new(end, environment.clone()));
        let acceptance = Arc::new(Acceptance {
            shard: name.to_owned(),
            log_id: manifest.id.clone(),
            notifier,
            accepting: Mutex::new(accepting),
            switches,
            follows,
            successor: OnceLock::new(),
            followed_base: watch::Sender::new(manifest.base),
        });
        // Also if it was opened before: what has changed since then was not told. First, so that what comes next is told after it.
        acceptance.announce_switch(&OPENED);
        events.pass_on_to(acceptance.clone());
        let shard = Shard {
            name: name.to_owned(),
            log_id: manifest.id.clone(),
            environment,
            store,
            snapshots,
            pins: Arc::default(),
            snapshotting: Mutex::default(),
            copies: Mutex::default(),
            missing_snapshots: AtomicU64::new(0),
            audits: Mutex::default(),
            archive: None,
            acceptance,
            changing: tokio::sync::Mutex::new(()),
            replicas: AtomicU64::new(0),
            append_latency: Latency::new(),
            nodes: Mutex::default(),
            contradictions: Mutex::default(),
            reported: Mutex::new(Reported::new(now)),
            lines: LineThrottle::of(LINES_AT_ONCE),
        };
        say!(
            OPENED,
            info,
            "shard {name} opened{}: base {}, end {end}, epoch {}",
            if follows { " to follow another service" } else { "" },
            manifest.base,
            shard.accepting().epochs.epoch()
        );
        Ok(shard)
    }

    /// Holds back lines of the log that whoever has the shard's token can cause.
    pub fn lines(&self) -> &LineThrottle {
        &self.lines
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its bytes are.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// How long appends took, from their arrival until they were acknowledged, since the shard was opened.
    pub fn append_latency(&self) -> &Latency {
        &self.append_latency
    }

    /// What tells its progress.
    pub fn notifier(&self) -> &Arc<DurabilityNotifier> {
        &self.acceptance.notifier
    }

    /// Accepts `payload` at `offset` from the leader of `epoch`, or refuses it. It is in the log when the ticket says
    /// so; appends that were accepted become durable in the order of these calls. Of one that lies below the log's end, wholly or in
    /// part, nothing is done yet: see [`Shard::append_overlapping`]. Does not block.
    pub fn append(&self, epoch: u64, offset: u64, payload: Bytes) -> Result<Submitted, Refusal> {
        let mut accepting = self.accepting();
        let until = offset.saturating_add(payload.len() as u64);
        let admission = accepting.epochs.admit(epoch, offset, payload.len(), accepting.end);
        if let Err(refusal) = &admission {
            // Once for each epoch: a deposed leader may have thousands on their way.
            if refusal.code == Code::Fenced && accepting.fenced.replace(epoch) != Some(epoch) {
                say!(self.lines, warn, "shard {}: append at {offset} refused: {refusal}", self.name);
            }
        }
        let admission = admission?;
        if let Some(reason) = accepting.paused {
            return Err(Refusal::new(Code::Err, reason));
        }
        match admission {
            Admission::Overlap { bytes: 0 } => {}
            Admission::Overlap { bytes } => {
                let refusals = self.acceptance.notifier.refusals();
                return Ok(Submitted::Overlaps(Overlap { epoch, offset, payload, bytes, refusals }));
            }
            Admission::Write => {
                let submitted = self.store.submit_and_go_on(Append { epoch, offset: accepting.end, payload });
                if let Err(SubmitError::NoSpace(reason)) = &submitted {
                    self.acceptance.note_no_space(&mut accepting, reason);
                }
                submitted.map_err(|error| self.submit_refusal(&error))?;
                accepting.end = until;
                if !rule_switches::holds(Rule::AcknowledgesWhatIsDurable) {
                    self.notifier().set_durable(until);
                }
            }
        }
        let ticket = Ticket { until, ..self.accepted_by(&accepting) };
        drop(accepting);
        self.store.go_on();
        Ok(Submitted::Accepted(ticket))
    }

    /// All that was accepted so far.
    pub fn accepted(&self) -> Ticket {
        self.accepted_by(&self.accepting())
    }

    /// All that was accepted so far. Refusals are counted under the same lock as the end is set back, so both are of one moment.
    fn accepted_by(&self, accepting: &Accepting) -> Ticket {
        Ticket { until: accepting.end, refusals: self.acceptance.notifier.refusals() }
    }

    fn submit_refusal(&self, error: &SubmitError) -> Refusal {
        match (error, self.notifier().progress().refusal()) {
            (SubmitError::Closed, Some(refusal)) => refusal,
            (SubmitError::Closed, None) => Refusal::new(Code::LogFailed, error.to_string()),
            (SubmitError::NoSpace(reason), _) => Refusal::new(Code::NoSpace, reason.clone()),
            (SubmitError::Busy { .. }, _) => Refusal::new(Code::Err, format!("{error}; send it again later")),
        }
    }

    /// The manifest, and what keeps the log from its base on.
    pub fn pin_base(&self) -> (Manifest, Pin) {
        let (pin, manifest) = self.pins.pin(|| {
            let manifest = self.store.manifest();
            (manifest.base, manifest)
        });
        (manifest, pin)
    }

    /// Counts a replica until the guard is dropped.
    pub fn attach_replica(self: &Arc<Self>) -> ReplicaGuard {
        self.replicas.fetch_add(1, Ordering::Relaxed);
        ReplicaGuard(self.clone())
    }

    fn accepting(&self) -> MutexGuard<'_, Accepting> {
        self.acceptance.lock()
    }

    fn contradictions(&self) -> MutexGuard<'_, Contradictions> {
        self.contradictions.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Counts one attached replica.
pub struct ReplicaGuard(Arc<Shard>);

impl Drop for ReplicaGuard {
    fn drop(&mut self) {
        self.0.replicas.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Acceptance {
    fn lock(&self) -> MutexGuard<'_, Accepting> {
        self.accepting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
