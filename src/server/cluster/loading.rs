//! A node that was its shard's primary in the cluster follows its log when it starts, and is a primary to the cluster all the while. A
//! server that is a primary in that sense drops keys and fields of hashes that are past their time as it loads a snapshot, although what
//! comes after the snapshot may have given them more time. So the server takes itself for a replica for as long as it loads what its log
//! sends. Nothing is read from the bus meanwhile: what the server would make of it as a replica without a primary is void. Main thread.

use std::cell::Cell;

use crate::server::cluster::functions::Functions;
use crate::server::cluster::node::{Node, PRIMARY, REPLICA};
use crate::server::cluster::{is_enabled, layout_check};
use crate::server::follow_settings::{self, Owner};
use crate::server::read_pause;

thread_local! {
    static IS_TURNED: Cell<bool> = const { Cell::new(false) };
}

/// The server's own node, where the layout is verified.
fn own_node() -> Option<&'static mut Node> {
    layout_check::found()?;
    let functions = Functions::get().ok()?;
    // SAFETY: the layout is verified, and the server's node lives as long as the server. Only the main thread uses it, and each caller is done
    // with it before the server goes on.
    unsafe { (*functions.myself).as_mut() }
}

/// The server begins to load what the one that it replicates from sends. Called from the server's event.
pub fn begins() {
    if !is_enabled() || follow_settings::owner() != Owner::Log {
        return;
    }
    if let Some(node) = own_node().filter(|node| node.is_primary()) {
        node.flags = node.flags & !PRIMARY | REPLICA;
        IS_TURNED.set(true);
        read_pause::hold_bus();
    }
}

/// Makes a replica without a primary a primary without slots. A server may have ended while it took itself for one, and have saved that; and a
/// replica whose primary was forgotten is one too. The server would look for the slots of that primary, which is nobody, and end. While the
/// module loads, when the layout is verified: nothing has come from the bus yet.
pub fn mend_what_was_saved() {
    let node = if is_enabled() { own_node() } else { None };
    if let Some(node) = node.filter(|node| !node.is_primary() && node.replica_of.is_null()) {
        become_primary(node);
    }
}

/// The server has loaded it, or could not, or ends. Called from the server's event.
pub fn ends() {
    if !IS_TURNED.replace(false) {
        return;
    }
    // Nothing came from the bus meanwhile, so the node is what it was.
    if let Some(node) = own_node() {
        become_primary(node);
    }
    read_pause::let_bus_go();
}

fn become_primary(node: &mut Node) {
    node.flags = node.flags & !REPLICA | PRIMARY;
}
