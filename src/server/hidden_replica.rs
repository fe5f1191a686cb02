//! The tap is no line among the replicas of `INFO replication` and `ROLE`.
//!
//! To the server the tap is a replica that acknowledges offset 0 for ever, as `WAIT` counts what a replica has acknowledged, and the log is no
//! node to read from. INFO would show that same offset, and every alert on the lag of replicas would fire for as long as the node leads. The
//! server leaves a replica out whose address it cannot tell, so it is told none for the tap. `CLIENT LIST` has a longer buffer for
//! addresses, and still shows it. How far the log is stands in `INFO durability`. Main thread only.

use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::panic_guard::guard;
use crate::decide::gate::ClientId;
use crate::server::cluster::bus_links::client_of;
use crate::server::connection_functions::{self, original, TCP};
use crate::server::structs::Connection;

/// `NET_IP_STR_LEN`: what the server has room for where it shows the address of a replica.
const REPLICAS_BUFFER_BYTES: usize = 46;
/// What a function of the server that fails answers.
const FAILED: c_int = -1;

/// The client that is hidden; 0 if there is none.
static HIDDEN: AtomicU64 = AtomicU64::new(0);

/// That client, a replica, is not shown as one from now on. It takes the place of the one before.
pub fn hide(client: ClientId) {
    HIDDEN.store(client, Ordering::Relaxed);
}

/// No client is hidden.
pub fn forget_all() {
    HIDDEN.store(0, Ordering::Relaxed);
}

/// Has the server ask this file for the addresses of connections. Main thread, once the server's own functions are kept. The tap is of the
/// kind of TCP connections.
pub fn install() {
    connection_functions::put_address_function(address);
}

/// Has the server find addresses by itself.
pub fn uninstall() {
    connection_functions::restore_address_function();
}

unsafe extern "C" fn address(
    connection: *mut Connection,
    text: *mut c_char,
    text_bytes: usize,
    port: *mut c_int,
    is_remote: c_int,
) -> c_int {
    let is_hidden = guard("hiding the tap", false, || {
        // SAFETY: the server asks for the address of a live connection. If nothing is known of what it belongs to yet, there is no client.
        let client = unsafe { client_of(connection) };
        is_remote != 0 && text_bytes == REPLICAS_BUFFER_BYTES && client.is_some_and(|client| is_hidden(client.id))
    });
    if !is_hidden {
        // SAFETY: the server's own arguments to its own function.
        return unsafe { (original::<TCP>().address)(connection, text, text_bytes, port, is_remote) };
    }
    // SAFETY: the server passes a buffer of that length, and a place for the port or null. It may show either in spite of the failure.
    unsafe {
        text.write(0);
        if let Some(port) = port.as_mut() {
            *port = 0;
        }
    }
    FAILED
}

fn is_hidden(client: ClientId) -> bool {
    client != 0 && client == HIDDEN.load(Ordering::Relaxed)
}
