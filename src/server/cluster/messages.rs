//! Messages between the modules of a cluster's nodes, over the cluster's bus. Main thread.

use std::ffi::{c_char, CString};

use valkey_module::{raw, Context};

use crate::base::panic_guard::guard;
use crate::server::cluster::is_enabled;
use crate::server::cluster::node::ID_BYTES;
use crate::server::events::Hooks;

/// A kind of message: the name of a node among those of its shard, which asks the receiver to hand over to it.
const HAND_OVER: u8 = 1;
/// A kind of message: the name of the sender's shard. The receiver answers with [`SHARD`].
const WHICH_SHARD: u8 = 2;
/// A kind of message: the name of the sender's shard.
const SHARD: u8 = 3;
/// Names are shorter, in bytes.
const MAX_NAME_BYTES: usize = 512;

/// Has the server pass on messages of other nodes. While the module loads.
pub fn listen<H: Hooks>(ctx: &Context) {
    if !is_enabled() {
        return;
    }
    // SAFETY: set while the module loads, before this is called.
    if let Some(register) = unsafe { raw::RedisModule_RegisterClusterMessageReceiver } {
        for kind in [HAND_OVER, WHICH_SHARD, SHARD] {
            // SAFETY: the context is valid, and the receiver has the right signature.
            unsafe { register(ctx.ctx, kind, Some(on_message::<H>)) };
        }
    }
}

/// Asks the node with that id in the cluster to hand over to the one of that name. Returns whether the message goes out.
pub fn ask_to_hand_over(ctx: &Context, leader: &str, name: &str) -> bool {
    send(ctx, leader, HAND_OVER, name)
}

/// Tells the node with that id in the cluster the name of this node's shard, and asks for that of its own. Returns whether the message goes
/// out.
pub fn ask_for_shard(ctx: &Context, node: &str, own: &str) -> bool {
    send(ctx, node, WHICH_SHARD, own)
}

/// Tells the node with that id in the cluster the name of this node's shard.
pub fn tell_shard(ctx: &Context, node: &str, own: &str) -> bool {
    send(ctx, node, SHARD, own)
}

fn send(ctx: &Context, node: &str, kind: u8, name: &str) -> bool {
    let Ok(node) = CString::new(node) else { return false };
    let Ok(length) = u32::try_from(name.len()) else { return false };
    // SAFETY: set while the module loads.
    let Some(send) = (unsafe { raw::RedisModule_SendClusterMessage }) else { return false };
    // SAFETY: the context is valid; the server copies id and message.
    let sent = unsafe { send(ctx.ctx, node.as_ptr().cast_mut(), kind, name.as_ptr().cast(), length) };
    sent == raw::REDISMODULE_OK as i32
}

unsafe extern "C" fn on_message<H: Hooks>(
    _: *mut raw::RedisModuleCtx,
    sender: *const c_char,
    kind: u8,
    payload: *const u8,
    length: u32,
) {
    guard("hearing another node", (), || {
        let length = (length as usize).min(MAX_NAME_BYTES);
        // SAFETY: the server passes that many bytes, and an id of that length, which live during the callback.
        let (name, sender) = unsafe {
            (std::slice::from_raw_parts(payload, length), std::slice::from_raw_parts(sender.cast::<u8>(), ID_BYTES))
        };
        let (Ok(name), Ok(sender)) = (std::str::from_utf8(name), std::str::from_utf8(sender)) else { return };
        match kind {
            HAND_OVER => H::asked_to_hand_over(name),
            WHICH_SHARD | SHARD => H::heard_shard(sender, name, kind == WHICH_SHARD),
            _ => {}
        }
    });
}
