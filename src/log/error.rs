//! Why the log service did not do what it was asked.

use std::io::ErrorKind;
use std::sync::Arc;

use durability_protocol::{Code, Refusal};

use crate::decide::known_log::Contradiction;
use crate::decide::service_choice::Failure;
use crate::log::services::{Service, Services};
use crate::settings;
use crate::settings::token::TokenError;

/// Why the log service did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It cannot be reached, or the connection broke.
    #[error("the log service at {address} cannot be reached: {source}")]
    Unreachable {
        /// As configured.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no token to log in with.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It answered with an error.
    #[error("{by} refuses: {refusal}")]
    Refused {
        /// What it said.
        refusal: Refusal,
        /// What to call the service.
        by: Arc<Service>,
    },
    /// It is another log than this node knows, or an older copy of it.
    #[error("{}", .0.text(&settings::SHARD.value()))]
    Contradicted(Contradiction),
    /// It answered something that the protocol does not allow.
    #[error("the log service at {address} does not speak the protocol: {detail}")]
    Protocol {
        /// As configured.
        address: String,
        /// What it said.
        detail: String,
    },
}

impl LogError {
    /// What it says of the service: `None` if another one would do no better.
    pub fn failure(&self, services: &Services) -> Option<Failure> {
        match self {
            LogError::Unreachable { source, .. } if source.kind() == ErrorKind::TimedOut => Some(Failure::Silent),
            LogError::Unreachable { .. } | LogError::Protocol { .. } => Some(Failure::Lost),
            LogError::Refused { refusal, .. } => services.failure_of(refusal),
            LogError::Token(_) | LogError::Contradicted(_) => None,
        }
    }

    /// Whether another service decides over the log.
    pub fn is_not_leader(&self) -> bool {
        self.code() == Some(Code::NotLeader)
    }

    /// The code with which the service refuses, if it does.
    pub fn code(&self) -> Option<Code> {
        match self {
            LogError::Refused { refusal, .. } => Some(refusal.code),
            _ => None,
        }
    }
}
