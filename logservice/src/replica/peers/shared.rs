//! What all connections to and from peers have in common.

use std::sync::Arc;
use std::time::Duration;

use super::registry::Registry;
use super::token::PeerToken;
use super::PeerEvents;
use crate::connections::tls::Tls;

/// What a connection is for. Each peer has one of each, in each direction; who connects sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Votes, heartbeats, answers, requests: all that is short, and must not wait.
    Control = 0,
    /// Entries and bases, in order.
    Log = 1,
    /// Requests for parts of files, and for what is done with them. They take long, and nothing else waits for them.
    Files = 2,
}

impl Lane {
    /// All of them.
    pub const ALL: [Lane; 3] = [Lane::Control, Lane::Log, Lane::Files];
    /// Those without which a peer cannot be sent all messages.
    pub const OF_MESSAGES: [Lane; 2] = [Lane::Control, Lane::Log];
}

/// How long peers are waited for. Tests shorten these.
#[derive(Debug, Clone, Copy)]
pub struct PeerPatience {
    /// How long a connection may take to be made, and how long its beginning may take after that.
    pub greeting: Duration,
    /// How long nothing may come, and how long nothing may be taken.
    pub silence: Duration,
    /// How often each end says that it is there.
    pub ping: Duration,
    /// The first pause before a connection is tried again. It doubles each time.
    pub least_pause: Duration,
    /// The longest.
    pub most_pause: Duration,
    /// How long a request waits for a connection.
    pub connection: Duration,
    /// How long it waits for its answer after that.
    pub answer: Duration,
}

impl Default for PeerPatience {
    fn default() -> Self {
        PeerPatience {
            greeting: Duration::from_secs(5),
            silence: Duration::from_secs(5),
            ping: Duration::from_secs(1),
            least_pause: Duration::from_millis(50),
            most_pause: Duration::from_secs(1),
            connection: Duration::from_secs(3),
            answer: Duration::from_secs(10),
        }
    }
}

/// What all connections have in common.
pub struct Shared {
    /// The token.
    pub token: PeerToken,
    /// TLS, if there is.
    pub tls: Option<Arc<Tls>>,
    /// Drawn when this process started.
    pub process: u64,
    /// Who the peers are.
    pub registry: Arc<Registry>,
    /// Who hears what comes.
    pub events: Arc<dyn PeerEvents>,
    /// How long peers are waited for.
    pub patience: PeerPatience,
}
