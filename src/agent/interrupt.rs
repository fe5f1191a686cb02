//! Why the agent does something else.

use crate::decide::known_log::Contradiction;
use crate::exchange::passed_over::PassedOver;
use crate::log::control::LogError;

/// Why the agent's current work ends before it is done.
#[derive(Debug)]
pub enum Interrupt {
    /// The module is to end.
    Stop,
    /// The mode became off, or ceased to be.
    ModeChanged,
    /// Something failed; to be tried again.
    Failed(String),
    /// Another leader has taken over, or may.
    Fenced(String),
    /// This node gave the lease to another one.
    HandedOver,
    /// The server was taken away from its log; to be attached to it again.
    LostItsLog,
    /// The server had to pass over something of its log.
    PassedOver(PassedOver),
    /// The server could not load a full copy of its log.
    CopyFailed,
    /// Something failed that trying again does not mend.
    Hopeless(String),
    /// The log is not what this node knows.
    Contradicted(Contradiction),
    /// The operator says that the log of that id is right. With `seeds`, it is to start anew from this node's data.
    LogAccepted { log_id: String, seeds: bool },
}

impl<E: std::error::Error + 'static> From<E> for Interrupt {
    fn from(error: E) -> Self {
        match (&error as &(dyn std::error::Error + 'static)).downcast_ref::<LogError>() {
            Some(LogError::Contradicted(contradiction)) => Interrupt::Contradicted(contradiction.clone()),
            _ => Interrupt::Failed(error.to_string()),
        }
    }
}
