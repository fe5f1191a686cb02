//! Connections of the module's own to its server: the tap and the self-test. Main thread, outside of any command and of any server event.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use valkey_module::logging::log_warning;

use crate::decide::gate::Connections;
use crate::exchange::own_logins::Origin;
use crate::exchange::pipe::Pipe;
use crate::node;
use crate::server::diversion::{Diversion, Turn};
use crate::server::internals::Internals;

/// Has the server serve the client at the other end of the socket, which logs in with each of these secrets.
pub fn take(socket: OwnedFd, secrets: Vec<String>) -> Result<(), String> {
    let client = Internals::get().map_err(str::to_owned)?.take_connection(socket)?;
    expect_logins(Origin::Client(client), secrets);
    Ok(())
}

/// A connection from there logs in with each of these secrets.
pub fn expect_logins(origin: Origin, secrets: Vec<String>) {
    node::with(|module| module.own_logins.expect(origin, secrets));
}

/// From now on, what is meant for the tap is written into the pipe. Returns whether that is possible.
pub fn divert(pipe: Arc<Pipe>) -> bool {
    let is_diverted = node::with(|module| {
        let tap = module.shared.tap_client.load(Ordering::Relaxed);
        let diversion = Diversion { pipe, shared: Arc::clone(&module.shared), turn: Turn::default() };
        Some(module.gate.as_mut()?.connections.divert(tap, diversion))
    });
    is_diverted.flatten().unwrap_or(false)
}

/// Bytes that wait on the connection that is held for the self-test.
pub fn pending_bytes() -> u64 {
    let pending = node::with(|module| {
        let client = module.self_test_client;
        let gate = module.gate.as_mut()?;
        gate.connections.flush(client);
        Some(gate.connections.waiting_bytes(client))
    });
    pending.flatten().unwrap_or(0)
}

/// Lets go of the connection that is held for the self-test.
pub fn release() {
    node::with(|module| {
        let client = module.self_test_client;
        if let Some(gate) = module.gate.as_mut() {
            gate.let_go(client);
        }
    });
}

/// The self-test's client has selected the database with that number. Returns whether it is known now where clients say so.
pub fn learn_database(number: u32) -> bool {
    let is_known = node::with(|module| {
        let client = module.self_test_client;
        Some(module.gate.as_mut()?.connections.learn_database(client, number))
    });
    is_known.flatten().unwrap_or(false)
}

/// The server has no database but the first.
pub fn there_is_one_database() {
    node::with(|module| {
        if let Some(gate) = &mut module.gate {
            gate.connections.layout.there_is_one();
        }
    });
}

/// Keeps the result of the self-test, and logs a failure that is new.
pub fn self_test_done(result: Result<(), String>) {
    let is_news = node::with(|module| module.self_test.as_ref() != Some(&result)) == Some(true);
    if let (Err(why), true) = (&result, is_news) {
        log_warning(format!("durability: sync mode does not work in this server: {why}"));
    }
    node::with(|module| module.self_test = Some(result));
}
