//! Time limits of a connection. Most connections have nothing to be timed, and no timer; the others check once in a while.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::connections::limits::{Limits, Patience};

/// What has to be timed now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watch {
    /// The client has not logged in, and has to.
    pub is_stranger: bool,
    /// The client has a place that is kept for nodes, and has not shown that it is one.
    pub is_on_trial: bool,
    /// A command has arrived in part, and the connection waits for the rest.
    pub is_partial: bool,
    /// How long the client has taken nothing of its replies.
    pub stalled_for: Option<Duration>,
    /// The input holds memory.
    pub holds_memory: bool,
}

impl Watch {
    fn is_needed(&self) -> bool {
        self.is_stranger || self.is_on_trial || self.is_partial || self.stalled_for.is_some() || self.holds_memory
    }
}

/// What a client has not done in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// It has not logged in.
    Login,
    /// It has not shown that it is a node.
    Trial,
    /// It has not finished a command.
    Command,
    /// It has not taken its replies.
    Output,
    /// It has not sent anything, so its buffer can be freed.
    Input,
}

/// The time limits of one connection.
pub struct Clock {
    limits: Arc<Limits>,
    /// When it was accepted, or later got a place that is kept for nodes.
    begun: Instant,
    partial_since: Option<Instant>,
    has_read: bool,
    last_read: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// The client was just accepted.
    pub fn new(limits: Arc<Limits>) -> Self {
        let now = Instant::now();
        Clock { limits, begun: now, partial_since: None, has_read: false, last_read: now, timer: None }
    }

    /// The client has got a place, in which it may have to show that it is a node.
    pub fn begin_trial(&mut self) {
        self.begun = Instant::now();
    }

    /// Records that something has arrived.
    pub fn has_read(&mut self) {
        self.has_read = true;
        self.last_read = Instant::now();
    }

    /// When something arrived last: what a command took counts from then.
    pub fn last_read(&self) -> Instant {
        self.last_read
    }

    /// Records that a command was complete.
    pub fn command_is_complete(&mut self) {
        self.partial_since = None;
    }

    /// Starts what has to be timed. Called before each wait.
    pub fn start(&mut self, watch: Watch) {
        if !watch.is_partial {
            self.partial_since = None;
        } else if self.partial_since.is_none() {
            self.partial_since = Some(Instant::now());
        }
        if self.timer.is_none() && watch.is_needed() {
            let Patience { login, command, stalled_output, idle_buffer, .. } = self.limits.patience;
            self.timer = Some(Box::pin(tokio::time::sleep(login.min(command).min(stalled_output).min(idle_buffer))));
        }
    }

    /// Waits until it is time for [`Clock::look`]; for ever if nothing is timed.
    pub async fn tick(&mut self) {
        match &mut self.timer {
            Some(timer) => timer.await,
            None => std::future::pending().await,
        }
    }

    /// What has taken too long, if anything has. Called after [`Clock::tick`].
    pub fn look(&mut self, watch: Watch) -> Option<Overdue> {
        self.timer = None;
        let was_idle = !std::mem::take(&mut self.has_read);
        if watch.is_stranger && self.begun.elapsed() >= self.limits.patience.login {
            return Some(Overdue::Login);
        }
        if watch.is_on_trial && self.begun.elapsed() >= self.limits.patience.login {
            return Some(Overdue::Trial);
        }
        if self.partial_since.is_some_and(|since| since.elapsed() >= self.limits.patience.command) {
            return Some(Overdue::Command);
        }
        if watch.stalled_for.is_some_and(|time| time >= self.limits.patience.stalled_output) {
            return Some(Overdue::Output);
        }
        (was_idle && watch.holds_memory && !watch.is_partial).then_some(Overdue::Input)
    }
}
