//! Why the agent stops what it does.

use crate::decide::known_log::Contradiction;
use crate::exchange::passed_over::PassedOver;
use crate::log::error::LogError;

/// Why the agent's current work ends before it is done.
#[derive(Debug)]
pub enum Interrupt {
    /// The module is to end.
    Stop,
    /// The node is to have no log any more, or to have one again.
    ModeChanged,
    /// Something failed. Another attempt may succeed.
    Failed(String),
    /// Another leader has taken over, or may.
    Fenced(String),
    /// This node gave the lease to another one.
    HandedOver,
    /// The server was made a primary while it followed its log. It is to be attached again.
    LostItsLog,
    /// The server passed over something of its log.
    PassedOver(PassedOver),
    /// The server could not load a full copy of its log.
    CopyFailed,
    /// Something failed. Another attempt cannot succeed.
    Hopeless(String),
    /// The log is not what this node knows.
    Contradicted(Contradiction),
    /// The operator says that the log of that id is right. With `keeps_own_data`, it starts anew from this node's data.
    LogAccepted { log_id: String, keeps_own_data: bool },
}

impl<E: std::error::Error + 'static> From<E> for Interrupt {
    fn from(error: E) -> Self {
        match (&error as &(dyn std::error::Error + 'static)).downcast_ref::<LogError>() {
            Some(LogError::Contradicted(contradiction)) => Interrupt::Contradicted(contradiction.clone()),
            _ => Interrupt::Failed(error.to_string()),
        }
    }
}
