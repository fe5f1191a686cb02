//! Messages between the modules of a cluster's nodes, over the cluster's bus. Main thread.

use std::ffi::{c_char, CString};

use valkey_module::{raw, Context};

use crate::base::panic_guard::guard;
use crate::server::cluster::is_enabled;
use crate::server::events::Hooks;

/// The one kind of message: the name of a node among those of its shard, which asks the receiver to hand over to it.
const HAND_OVER: u8 = 1;
/// Names are shorter, in bytes.
const MAX_NAME_BYTES: usize = 512;

/// Has the server pass on messages of other nodes. While the module loads.
pub fn listen<H: Hooks>(ctx: &Context) {
    if !is_enabled() {
        return;
    }
    // SAFETY: set while the module loads, before this is called.
    if let Some(register) = unsafe { raw::RedisModule_RegisterClusterMessageReceiver } {
        // SAFETY: the context is valid, and the receiver has the right signature.
        unsafe { register(ctx.ctx, HAND_OVER, Some(on_message::<H>)) };
    }
}

/// Asks the node with that id in the cluster to hand over to the one of that name. Returns whether the message goes out.
pub fn ask_to_hand_over(ctx: &Context, leader: &str, name: &str) -> bool {
    let Ok(leader) = CString::new(leader) else { return false };
    let Ok(length) = u32::try_from(name.len()) else { return false };
    // SAFETY: set while the module loads.
    let Some(send) = (unsafe { raw::RedisModule_SendClusterMessage }) else { return false };
    // SAFETY: the context is valid; the server copies id and message.
    let sent = unsafe { send(ctx.ctx, leader.as_ptr().cast_mut(), HAND_OVER, name.as_ptr().cast(), length) };
    sent == raw::REDISMODULE_OK as i32
}

unsafe extern "C" fn on_message<H: Hooks>(
    _: *mut raw::RedisModuleCtx,
    _: *const c_char,
    _: u8,
    payload: *const u8,
    length: u32,
) {
    guard("hearing another node", (), || {
        let length = (length as usize).min(MAX_NAME_BYTES);
        // SAFETY: the server passes that many bytes, which live during the callback.
        let name = unsafe { std::slice::from_raw_parts(payload, length) };
        if let Ok(name) = std::str::from_utf8(name) {
            H::asked_to_hand_over(name);
        }
    });
}
