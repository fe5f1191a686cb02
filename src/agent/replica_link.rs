//! The server's own replication link to its log, while the node follows. Agent's thread.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::agent::full_copy;
use crate::agent::interrupt::Interrupt;
use crate::agent::state::Agent;
use crate::exchange::mailbox::{Progress, Task};
use crate::exchange::Shared;
use crate::settings;

/// A link that is younger than this may just be connecting.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// If the server has no link to its log for this long, that is an error.
const TIME_WITHOUT_LINK: Duration = Duration::from_secs(5);

/// The server's link to its log.
pub struct ReplicaLink {
    /// Where the server follows the log.
    address: SocketAddr,
    /// When it last had a link, or was given that address.
    linked: Instant,
    /// Whether it has ever had a link.
    was_linked: bool,
    /// Whether the log has no full copy for the server, which waits for one.
    lacks_copy: bool,
    /// Whether the server has logged in to the log as one that holds nothing but the log's data.
    is_whole: bool,
}

impl ReplicaLink {
    /// The server was just told to follow the log at `address`.
    pub fn new(address: SocketAddr) -> Self {
        ReplicaLink { address, linked: Instant::now(), was_linked: false, lacks_copy: false, is_whole: false }
    }

    /// Takes in how far the server is; `None` without a link.
    ///
    /// A server tries again by itself, with the address and the certificates that it has. If the lease keeper reaches the log at another
    /// address, the server is given that one. After it attaches again, it uses the certificates that the files hold then. If the log
    /// itself gives it nothing, it need not attach again: the log puts off its answer until it can.
    ///
    /// # Errors
    /// The link is missing for too long, or something else is to be done first.
    pub fn watch(&mut self, agent: &mut Agent, progress: Option<&Progress>) -> Result<(), Interrupt> {
        let lacks_link = progress.is_none() && agent.control.ask(Task::LacksLink)?;
        let takes_full_copy = progress.is_none() && !lacks_link;
        if progress.is_some() {
            agent.copy_waits.reset();
            if std::mem::take(&mut self.lacks_copy) {
                agent.shared.set_last_error("");
            }
        }
        let reached = agent.shared.log_address().filter(|reached| *reached != self.address && !takes_full_copy);
        if let Some(reached) = reached {
            agent.control.ask(|reply| Task::FollowAt(reached, reply))?.map_err(cannot_follow)?;
            self.address = reached;
            self.linked = Instant::now();
        } else if !lacks_link {
            self.linked = Instant::now();
            if !std::mem::replace(&mut self.was_linked, true) {
                agent.shared.set_last_error("");
            }
        } else if self.linked.elapsed() < CONNECT_TIME {
            // It may just be connecting.
        } else if let Some(why) = full_copy::why_no_copy(&agent.shared) {
            self.lacks_copy = true;
            agent.shared.try_again_after(&why);
            self.linked = Instant::now();
        } else if self.linked.elapsed() > TIME_WITHOUT_LINK {
            return Err(Interrupt::Failed(no_link(self.address)));
        }
        if progress.is_some() && !self.is_whole {
            let user = replica_user(&agent.shared, true);
            self.is_whole = agent.control.ask(|reply| Task::FollowsWhole(user, reply))?;
        }
        Ok(())
    }
}

/// The user name with which the server logs in to the log. `is_whole` says that the server holds nothing but the log's data.
pub fn replica_user(shared: &Shared, is_whole: bool) -> String {
    let shard = settings::SHARD.value();
    match shared.known() {
        Some(known) => durability_protocol::replica_user(&shard, &known, is_whole),
        None => shard,
    }
}

/// The server refuses to follow the log, for that reason.
pub fn cannot_follow(why: String) -> Interrupt {
    Interrupt::Failed(format!("the server cannot follow the log: {why}"))
}

/// What to tell an operator whose server cannot follow a log that the module reaches at `address`.
fn no_link(address: SocketAddr) -> String {
    let hint = if settings::TLS.is_on() {
        "; by TLS it trusts the CAs in its own tls-ca-cert-file if it has one, so that has to hold the log's as well"
    } else {
        ""
    };
    format!(
        "the server's replication link to the log is not up: it connects to {address}, where this module reaches the log \
         (durability.log {}), and its own log says why that fails{hint}",
        settings::LOG.value()
    )
}
