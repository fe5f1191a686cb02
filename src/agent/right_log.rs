//! Whether the log is the one that this node knows, and what the agent does while it is not. Agent's thread.

use std::time::Duration;

use durability_protocol::Known;
use valkey_module::logging::{log_notice, log_warning};

use crate::agent::grant::Grant;
use crate::agent::interrupt::Interrupt;
use crate::agent::state::Agent;
use crate::decide::known_log::{Contradiction, Kind};
use crate::exchange::mailbox::Task;
use crate::log::control::LogConnection;
use crate::log::error::LogError;
use crate::log::local_node::Node;
use crate::log::reply::LogStatus;
use crate::settings;

/// While the log contradicts this node, it checks this often whether the right log is back.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the log may take to answer whether it is the right one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no connection to the log.
enum Unopened {
    /// The log service did not do what it was asked.
    Log(LogError),
    /// Something else is to be done first.
    Interrupted(Interrupt),
}

impl From<LogError> for Unopened {
    fn from(error: LogError) -> Self {
        Unopened::Log(error)
    }
}

impl From<Interrupt> for Unopened {
    fn from(interrupt: Interrupt) -> Self {
        Unopened::Interrupted(interrupt)
    }
}

impl Agent {
    /// Connects to the log and compares it with what this node knows, and with what its server holds of it. Returns the end of the latter
    /// (exclusive), if there was anything to compare.
    ///
    /// # Errors
    /// The log cannot be reached, or is not what this node knows, or something else is to be done first.
    pub fn open_checked(&mut self) -> Result<(LogConnection, Option<u64>), Interrupt> {
        loop {
            match self.try_open_checked() {
                // The service takes the token, and another one decides over the log.
                Err(Unopened::Log(error)) if error.is_not_leader() && self.shared.services.has_next() => {}
                Err(Unopened::Log(error)) => return Err(error.into()),
                Err(Unopened::Interrupted(interrupt)) => return Err(interrupt),
                Ok(opened) => return Ok(opened),
            }
        }
    }

    fn try_open_checked(&mut self) -> Result<(LogConnection, Option<u64>), Unopened> {
        let (id, address) = (self.shared.node_id(), self.shared.address());
        let node = Node { id: &id, address: &address };
        if let Some(lasting) = self.lasting.clone() {
            // No other node is to lead this log either.
            let mut log = LogConnection::open_unchecked(&self.shared, ANSWER_TIMEOUT)?;
            log.contradict(&node, self.shared.known().as_ref())?;
            return Err(Interrupt::Contradicted(lasting).into());
        }
        if self.gives_way {
            return Ok((LogConnection::open(&self.shared)?, None));
        }
        let known = self.shared.known();
        let mut log = LogConnection::open_unchecked(&self.shared, ANSWER_TIMEOUT)?;
        let mut end = None;
        // What the server holds is newer than what the agent remembers, so it is compared first: a comparison that the log confirms ends
        // an earlier contradiction of this node.
        if let (Some((replid, durable)), Some(known)) = (self.control.ask(Task::Held)?, &known) {
            // The epoch in which the server received it is not known.
            let held = Known { epoch: 0, replid, durable, ..known.clone() };
            log.check(&node, Some(&held))?;
            end = Some(durable);
        }
        log.check(&node, known.as_ref())?;
        Ok((log, end))
    }

    /// The log is not what this node knows: nobody is served until it is, or an operator has accepted it.
    ///
    /// # Errors
    /// The module is to end, or the node is to have no log, or to have one again.
    pub fn wait_for_right_log(&mut self, mut contradiction: Contradiction) -> Result<(), Interrupt> {
        let mut is_news = true;
        loop {
            if contradiction.is_lasting() {
                self.lasting = Some(contradiction.clone());
            }
            if is_news {
                self.refuse_for(&contradiction);
            }
            is_news = false;
            match self.control.pause(RECHECK_INTERVAL).and_then(|()| self.open_checked()) {
                Ok((log, _)) if contradiction.kind == Kind::Unfollowed && log.log_id() == contradiction.log_id => {}
                Ok(_) => {
                    log_notice("durability: the log is the one that this node knows; attaching to it again");
                    return Ok(());
                }
                // A contradiction that may end does not replace a lasting one.
                Err(Interrupt::Contradicted(now)) if now.is_lasting() || self.lasting.is_none() => {
                    is_news = now != contradiction;
                    contradiction = now;
                }
                Err(Interrupt::LogAccepted { log_id, keeps_own_data }) if self.accept_log(&log_id, keeps_own_data) => {
                    return Ok(())
                }
                Err(end @ (Interrupt::Stop | Interrupt::ModeChanged)) => return Err(end),
                Err(Interrupt::Fenced(_)) => self.must_confirm_step_down = true,
                // The next check meets any other obstacle again.
                Err(_) => {}
            }
        }
    }

    /// Has the service that decides take the log of that id for the right one.
    fn accept_at_leader(&self, log_id: &str) -> Result<LogStatus, LogError> {
        loop {
            let accepted = LogConnection::open_unchecked(&self.shared, ANSWER_TIMEOUT).and_then(|mut log| {
                log.accept(log_id)?;
                log.status()
            });
            match accepted {
                Err(error) if error.is_not_leader() && self.shared.services.has_next() => {}
                accepted => return accepted,
            }
        }
    }

    fn refuse_for(&mut self, contradiction: &Contradiction) {
        let why = contradiction.text(&settings::SHARD.value());
        self.shared.set_last_error(&why);
        self.shared.set_contradiction(Some(contradiction.clone()));
        self.shared.send(Task::Refuse(why));
        if contradiction.is_lasting() {
            // Report it at once, as the log service does not know of it. The next check meets what it answers again.
            drop(self.open_checked());
        }
    }

    /// The operator says that the log of that id is right, whatever this node knows. Returns whether it is accepted. If not, nothing has
    /// changed.
    pub fn accept_log(&mut self, log_id: &str, keeps_own_data: bool) -> bool {
        if self.shared.contradiction().is_some_and(|it| it.is_unfollowed(log_id)) {
            log_warning(format!(
                "durability: an operator has accepted the log {log_id}: what this node wrote while it had no log gives way to it"
            ));
            self.was_off = false;
            return true;
        }
        match self.accept_at_leader(log_id) {
            Ok(status) => {
                log_warning(format!(
                    "durability: an operator has accepted the log {log_id}: {}",
                    if keeps_own_data {
                        "it starts anew from this node's data"
                    } else {
                        "this node's data give way to it"
                    }
                ));
                self.shared.remember(|memory, _| memory.forget());
                self.grant = Grant::None;
                self.lasting = None;
                self.gives_way = true;
                // The log starts anew from this node's data only if no other node leads in between.
                self.was_off = keeps_own_data;
                self.holds_all_of = keeps_own_data.then_some(status.epoch);
                true
            }
            Err(error) => {
                log_warning(format!(
                    "durability: the log {log_id} is not accepted, and this node refuses as before; send DURABILITY.ACCEPT-LOG again: {error}"
                ));
                false
            }
        }
    }
}
