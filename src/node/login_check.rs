//! Lets the module's own connections into its server, whatever users and passwords that has. Each login is announced before it comes
//! (`exchange/own_logins.rs`), and taken from that connection only, once.

use std::ffi::c_int;
use std::sync::atomic::Ordering;

use valkey_module::{raw, Context, AUTH_HANDLED, AUTH_NOT_HANDLED};

use crate::base::panic_guard::guard;
use crate::decide::gate::Held;
use crate::exchange::own_logins::Origin;
use crate::node::{self, Module};
use crate::server::api;

/// The tap logs in under this name.
pub const TAP: &str = "durability-tap";
/// The self-test logs in under this name, and is held from then on.
pub const SELF_TEST: &str = "durability-self-test";

/// The server asks whether a client may log in.
pub unsafe extern "C" fn authenticate(
    ctx: *mut raw::RedisModuleCtx,
    user: *mut raw::RedisModuleString,
    password: *mut raw::RedisModuleString,
    _: *mut *mut raw::RedisModuleString,
) -> c_int {
    let answer = guard("checking a login", None, || {
        // SAFETY: the server's own strings, used only during this callback.
        let (user, password) = unsafe { (api::bytes(user), api::bytes(password)) };
        node::with(|module| log_in(module, &Context::new(ctx), user, password)).flatten()
    });
    if answer.is_some() {
        AUTH_HANDLED
    } else {
        AUTH_NOT_HANDLED
    }
}

fn log_in(module: &mut Module, ctx: &Context, user: &[u8], password: &[u8]) -> Option<()> {
    let is_self_test = user == SELF_TEST.as_bytes();
    if !is_self_test && user != TAP.as_bytes() {
        return None;
    }
    let id = ctx.get_client_id();
    let logins = &mut module.own_logins;
    // Where a client comes from is asked only where it counts: in a server of a version whose internals are not known.
    let is_own = logins.take(Origin::Client(id), password)
        || (logins.expects_any_from_outside()
            && api::client_place(id).is_some_and(|place| logins.take(place, password)));
    if !is_own {
        return None;
    }
    let client = module.tap_user.log_in(ctx)?;
    if is_self_test {
        let gate = module.gate.as_mut()?;
        if gate.hold_forever(client) == Held::Now {
            module.self_test_client = client;
        }
    } else {
        module.shared.tap_client.store(client, Ordering::Relaxed);
    }
    Some(())
}
