//! Why the agent does something else.

use crate::passed_over::PassedOver;

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
    /// Something failed that trying again does not mend.
    Hopeless(String),
}

impl<E: std::error::Error> From<E> for Interrupt {
    fn from(error: E) -> Self {
        Interrupt::Failed(error.to_string())
    }
}
