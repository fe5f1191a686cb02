//! Why the log service did not do what it was asked.

use durability_protocol::Refusal;

use crate::decide::known_log::Contradiction;
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
    #[error("the log service refuses: {0}")]
    Refused(#[from] Refusal),
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
