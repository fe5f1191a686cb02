//! Lets the module's own connections into its server, whatever users and passwords that has. Each login is announced before it comes
//! (`exchange/own_logins.rs`), and taken from that connection only, once.

use std::sync::atomic::Ordering;

use valkey_module::Context;

use crate::decide::gate::Held;
use crate::exchange::own_logins::{Origin, SELF_TEST, TAP};
use crate::node::Module;
use crate::server::{api, hidden_replica};

/// A client logs in, as that user with that password. Returns whether that is an own connection, which is logged in now.
pub fn log_in(module: &mut Module, ctx: &Context, user: &[u8], password: &[u8]) -> bool {
    take_login(module, ctx, user, password).is_some()
}

fn take_login(module: &mut Module, ctx: &Context, user: &[u8], password: &[u8]) -> Option<()> {
    let is_self_test = user == SELF_TEST.as_bytes();
    if !is_self_test && user != TAP.as_bytes() {
        return None;
    }
    let id = ctx.get_client_id();
    let logins = &mut module.own_logins;
    // Where a client comes from matters only in a server whose internals are not known.
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
        hidden_replica::hide(client);
    }
    Some(())
}
