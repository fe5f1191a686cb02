//! A shard that exists and is not served, and how it is shown.

use durability_protocol::{Code, Refusal};

use crate::shard::{LogState, Status};
use crate::store::OpenError;

/// Why a shard is not served.
#[derive(Debug, Clone)]
pub(super) struct Unserved {
    pub reason: String,
    /// Empty if the manifest cannot be read.
    pub log_id: String,
    /// It is unknown whether the shard is dropped.
    pub is_in_doubt: bool,
    /// A key is missing, and nothing else is known to be wrong.
    pub is_locked: bool,
}

impl Unserved {
    pub fn new(reason: String, log_id: String) -> Self {
        Unserved { reason, log_id, is_in_doubt: false, is_locked: false }
    }

    /// The status of the shard, of which nothing but this is known.
    pub fn status(self, shard: String) -> Status {
        let Unserved { reason: error, log_id, is_locked, .. } = self;
        let state = if is_locked { LogState::Locked } else { LogState::Damaged };
        let (lease_remaining_ms, snapshot_offset) = (-1, -1);
        Status {
            shard,
            state,
            error,
            log_id,
            lease_remaining_ms,
            snapshot_offset,
            acks: "running",
            ..Status::default()
        }
    }
}

impl From<OpenError> for Unserved {
    fn from(error: OpenError) -> Self {
        let (text, is_locked) = (error.to_string(), matches!(error, OpenError::Locked { .. }));
        let reason =
            if is_locked { format!("{text}; it is served when the service starts with that key") } else { text };
        Unserved { is_locked, ..Unserved::new(reason, String::new()) }
    }
}

impl From<Unserved> for Refusal {
    fn from(unserved: Unserved) -> Self {
        Refusal::new(Code::LogFailed, unserved.reason)
    }
}
