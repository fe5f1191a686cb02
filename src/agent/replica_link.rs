//! The server's own replication link to its log, while the node follows. Agent's thread.

use std::time::{Duration, Instant};

use crate::agent::full_copy;
use crate::agent::interrupt::Interrupt;
use crate::agent::state::Agent;
use crate::exchange::mailbox::{Progress, Task};
use crate::exchange::Shared;
use crate::log::services::Reached;
use crate::settings;

/// A link that is younger than this may just be connecting.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// If the server receives nothing for this long of what the log has, another service may give it more.
const TIME_WITHOUT_BYTES: Duration = Duration::from_secs(3);
/// If the server has no link to its log for this long, that is an error.
const TIME_WITHOUT_LINK: Duration = Duration::from_secs(5);

/// The server's link to its log.
pub struct ReplicaLink {
    /// Where the server follows the log.
    at: Reached,
    /// What it had received (exclusive), and since when it has received nothing more although the log has more.
    received: (u64, Instant),
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
    /// The server was just told to follow the log there.
    pub fn new(at: Reached) -> Self {
        let now = Instant::now();
        ReplicaLink { at, received: (0, now), linked: now, was_linked: false, lacks_copy: false, is_whole: false }
    }

    /// Takes in how far the server is; `None` without a link. `end` is the log's end (exclusive), if it is known.
    ///
    /// A server tries again by itself, with the address and the certificates that it has. If the lease keeper reaches the log at another
    /// address, the server is given that one. Any of several services will do: the server stays with one that gives it the log, whichever
    /// decides. After it attaches again, it uses the certificates that the files hold then. If the log itself gives it nothing, it need not
    /// attach again: the log puts off its answer until it can.
    ///
    /// # Errors
    /// The link is missing for too long, or something else is to be done first.
    pub fn watch(&mut self, agent: &mut Agent, progress: Option<&Progress>, end: Option<u64>) -> Result<(), Interrupt> {
        let lacks_link = progress.is_none() && agent.control.ask(Task::LacksLink)?;
        let takes_full_copy = progress.is_none() && !lacks_link;
        if progress.is_some() {
            agent.copy_waits.reset();
            if std::mem::take(&mut self.lacks_copy) {
                agent.shared.set_last_error("");
            }
        }
        let receives_nothing = self.receives_nothing(progress, end);
        let is_of_no_use = (lacks_link && self.linked.elapsed() >= CONNECT_TIME) || receives_nothing;
        let is_better = |reached: &Reached| {
            let is_elsewhere = *reached != self.at && !takes_full_copy;
            is_elsewhere && (reached.service == self.at.service || is_of_no_use)
        };
        if let Some(reached) = agent.shared.log_address().filter(is_better) {
            let at = reached.clone();
            agent.control.ask(|reply| Task::FollowAt(at, reply))?.map_err(cannot_follow)?;
            self.at = reached;
            self.linked = Instant::now();
            self.received.1 = self.linked;
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
            return Err(Interrupt::Failed(no_link(&self.at)));
        }
        if progress.is_some() && !self.is_whole {
            let user = replica_user(&agent.shared, true);
            self.is_whole = agent.control.ask(|reply| Task::FollowsWhole(user, reply))?;
        }
        Ok(())
    }

    /// Whether the server has a link on which nothing more comes of what the log has. The server itself would notice a service that stands
    /// still only after its `repl-timeout`.
    fn receives_nothing(&mut self, progress: Option<&Progress>, end: Option<u64>) -> bool {
        let lacks_some = progress.zip(end).is_some_and(|(progress, end)| progress.received < end);
        let received = progress.map_or(0, |progress| progress.received);
        if !lacks_some || received != self.received.0 {
            self.received = (received, Instant::now());
        }
        self.received.1.elapsed() > TIME_WITHOUT_BYTES
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

/// What to tell an operator whose server cannot follow a log that the module reaches there.
fn no_link(at: &Reached) -> String {
    let hint = if settings::TLS.is_on() {
        "; by TLS it trusts the CAs in its own tls-ca-cert-file if it has one, so that has to hold the log's as well"
    } else {
        ""
    };
    format!(
        "the server's replication link to the log is not up: it connects to {}, where this module reaches the log \
         (durability.log {}), and its own log says why that fails{hint}",
        at.address, at.service.address
    )
}
