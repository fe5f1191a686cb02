//! The audit of a shard that runs, if one does: what the leader is asked for, and the way of what it sends.

use std::sync::{Arc, MutexGuard};

use durability_protocol::audit::{AuditOrder, Batch};
use durability_protocol::{Code, Refusal};
use tokio::sync::{mpsc, oneshot};

use super::Shard;

/// The number of a database and the name of a key.
pub type KeyName = (u32, Vec<u8>);

/// What the leader sent, and who waits for the answer.
pub struct Delivery {
    /// What it sent.
    pub batch: Batch,
    /// The names of keys that it is to look at as well.
    pub answer: oneshot::Sender<Vec<KeyName>>,
}

/// What became of the last audit.
#[derive(Debug, Clone, Default)]
pub struct AuditStatus {
    /// `none`, `running`, `done` or `failed`.
    pub state: AuditState,
    /// When it ended, in milliseconds since 1970.
    pub time_ms: u64,
    /// Keys that were compared.
    pub keys: u64,
    /// How many differed.
    pub differences: u64,
    /// The first of them.
    pub first_difference: String,
    /// Why it could not be done.
    pub error: String,
}

/// See [`AuditStatus::state`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AuditState {
    #[default]
    None,
    Running,
    Done,
    Failed,
}

impl AuditState {
    /// As it stands in a status.
    pub fn word(self) -> &'static str {
        match self {
            AuditState::None => "none",
            AuditState::Running => "running",
            AuditState::Done => "done",
            AuditState::Failed => "failed",
        }
    }
}

#[derive(Default)]
pub(super) struct Audits {
    last_id: u64,
    wanted: Option<Wanted>,
    status: AuditStatus,
}

struct Wanted {
    order: AuditOrder,
    epoch: u64,
    to: mpsc::Sender<Delivery>,
}

/// The leader is asked for its keys for as long as this lives.
pub struct Inquiry {
    shard: Arc<Shard>,
    /// The epoch whose leader is asked.
    pub epoch: u64,
    deliveries: mpsc::Receiver<Delivery>,
}

impl Inquiry {
    /// The next that the leader sends.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }
}

impl Drop for Inquiry {
    fn drop(&mut self) {
        self.shard.audits().wanted = None;
    }
}

impl Shard {
    fn audits(&self) -> MutexGuard<'_, Audits> {
        self.audits.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The epoch in which somebody leads.
    ///
    /// # Errors
    /// Nobody does.
    pub fn check_led(&self) -> Result<u64, Refusal> {
        let accepting = self.accepting();
        let epoch = accepting.epochs.epoch();
        let nobody = "nobody leads this shard, so there is nothing that the log could be compared with";
        accepting.epochs.check_leading(epoch).map(|_| epoch).map_err(|_| Refusal::new(Code::Err, nobody))
    }

    /// Asks the leader for keys from now on. One audit of a shard runs at a time.
    ///
    /// # Errors
    /// Nobody leads.
    pub fn ask_leader(self: &Arc<Self>, keys: u64) -> Result<Inquiry, Refusal> {
        let epoch = self.check_led()?;
        let (to, deliveries) = mpsc::channel(1);
        let now_ms = self.environment.unix_ms();
        let mut audits = self.audits();
        // Also after a restart of this service no id comes again.
        audits.last_id = now_ms.max(audits.last_id + 1);
        let order = AuditOrder { id: audits.last_id, keys };
        audits.wanted = Some(Wanted { order, epoch, to });
        Ok(Inquiry { shard: self.clone(), epoch, deliveries })
    }

    /// What the leader is asked for.
    pub fn wanted_audit(&self) -> Option<AuditOrder> {
        self.audits().wanted.as_ref().map(|wanted| wanted.order)
    }

    /// The leader of `epoch` sends keys for the audit `id`. Answers the names of keys that it is to look at as well.
    ///
    /// # Errors
    /// It does not lead, or that audit is over.
    pub async fn deliver_samples(&self, id: u64, epoch: u64, batch: Batch) -> Result<Vec<KeyName>, Refusal> {
        self.accepting().epochs.check_leading(epoch)?;
        let over = || Refusal::new(Code::Err, format!("audit {id} is over"));
        let to = {
            let audits = self.audits();
            let wanted = audits.wanted.as_ref().filter(|wanted| (wanted.order.id, wanted.epoch) == (id, epoch));
            wanted.map(|wanted| wanted.to.clone()).ok_or_else(over)?
        };
        let (answer, answered) = oneshot::channel();
        to.send(Delivery { batch, answer }).await.map_err(|_| over())?;
        answered.await.map_err(|_| over())
    }

    /// Whether `epoch` is the one in force, and somebody leads.
    pub fn is_led_in(&self, epoch: u64) -> bool {
        self.accepting().epochs.check_leading(epoch).is_ok()
    }

    /// What became of the last audit.
    pub fn audit_status(&self) -> AuditStatus {
        self.audits().status.clone()
    }

    /// Sets [`Shard::audit_status`].
    pub fn note_audit(&self, status: AuditStatus) {
        self.audits().status = status;
    }
}
