//! Connections of the cluster's bus. They are of the same kinds as those of clients, but what they belong to is a `clusterLink`. The module
//! holds nothing on them but published messages (`bus_messages.rs`). Any thread.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::server::cluster::functions::Functions;
use crate::server::cluster::is_enabled;
use crate::server::structs::{Client, Connection, ConnectionHandler};

/// The handler that every link of the bus reads by; null outside of cluster mode.
static BUS_READ_HANDLER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// What is called when a link of the bus to another node is connected; null outside of cluster mode.
static BUS_CONNECT_HANDLER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Learns how links of the bus are told from clients. Main thread, before the module looks at any connection.
pub fn learn() {
    if let (true, Ok(functions)) = (is_enabled(), Functions::get()) {
        BUS_READ_HANDLER.store(functions.read_bus_link.cast_mut().cast(), Ordering::Relaxed);
        BUS_CONNECT_HANDLER.store(functions.bus_link_connected.cast_mut().cast(), Ordering::Relaxed);
    }
}

/// Whether the connection is a link of the bus that is established.
///
/// # Safety
/// The connection is live.
#[inline]
pub unsafe fn is_bus_link(connection: *const Connection) -> bool {
    // SAFETY: by contract.
    is(&BUS_READ_HANDLER, unsafe { (*connection).read_handler })
}

/// Whether the connection is a link of the bus, established or on its way to another node.
///
/// # Safety
/// The connection is live.
#[inline]
pub unsafe fn belongs_to_bus(connection: *const Connection) -> bool {
    // SAFETY: by contract.
    unsafe { is_bus_link(connection) || is_to_be_bus_link((*connection).connect_handler) }
}

/// Whether a connection is to be a link of the bus to another node, that `connected` is called for when it is there.
#[inline]
pub fn is_to_be_bus_link(connected: ConnectionHandler) -> bool {
    is(&BUS_CONNECT_HANDLER, connected)
}

#[inline]
fn is(known: &AtomicPtr<()>, handler: ConnectionHandler) -> bool {
    let known = known.load(Ordering::Relaxed);
    !known.is_null() && handler.is_some_and(|handler| handler as *mut () == known)
}

/// The client that the connection belongs to; none if it belongs to something else, or nothing is known of that yet.
///
/// # Safety
/// The connection is live. A client that it belongs to lives as long as what is returned is used.
#[inline]
pub unsafe fn client_of<'a>(connection: *const Connection) -> Option<&'a Client> {
    // SAFETY: by contract. A link of the bus belongs to no client; every other connection that belongs to something belongs to a client, or for
    // a moment to a `slotMigrationJob` that moves slots away. That begins with its kind, `SLOT_MIGRATION_EXPORT`, which is 0, and what fills it
    // up to the length of an id is 0 as well. No client has that id.
    unsafe {
        if is_bus_link(connection) {
            return None;
        }
        (*connection).private_data.as_ref().filter(|client| client.id != 0)
    }
}
