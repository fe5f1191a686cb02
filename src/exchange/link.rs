//! The state of the connection to the log.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use valkey_module::logging::log_notice;

/// The state of the connection to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkStatus {
    /// Not connected.
    Down,
    /// Connected, or just lost and not noticed yet.
    Up,
}

/// The connection to the log, as others see it.
#[derive(Debug, Default)]
pub struct Link {
    is_up: AtomicBool,
    /// The server's log says that it is up.
    is_logged: AtomicBool,
}

impl Link {
    /// Its state. Any thread.
    pub fn status(&self) -> LinkStatus {
        match self.is_up.load(Ordering::Relaxed) {
            true => LinkStatus::Up,
            false => LinkStatus::Down,
        }
    }

    /// There is a connection, on which nothing was answered yet. Agent.
    pub fn connected(&self) {
        self.is_up.store(true, Ordering::Relaxed);
    }

    /// The log service there has answered. The server's log says so, unless it did and the connection was not lost since. Agent.
    pub fn answered(&self, service: impl Display) {
        self.connected();
        if !self.is_logged.swap(true, Ordering::Relaxed) {
            log_notice(format!("durability: link: up, to {service}"));
        }
    }

    /// The connection is lost, or given up. The server's log says so, unless nothing was answered on it: while a log service is away,
    /// connections are tried again and again. Agent.
    pub fn lost(&self) {
        self.is_up.store(false, Ordering::Relaxed);
        if self.is_logged.swap(false, Ordering::Relaxed) {
            log_notice("durability: link: down");
        }
    }
}
