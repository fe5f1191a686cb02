//! What this server cannot offer, and why.

use valkey_module::Context;

use crate::exchange::server_support;
use crate::server::internals::Internals;
use crate::server::{cluster, command_names, layout_check, stream_settings, version};

/// Why this server cannot offer sync mode, judged without a client. Any thread; the main thread asks first, while
/// the module loads.
pub fn why_sync_is_impossible() -> Option<String> {
    // The server's internals are not touched where the version alone is in the way.
    version::why_not_offered().or_else(|| {
        let different = Internals::get().and_then(layout_check::verified).err();
        different.map(|what| format!("{what}, which sync mode needs; use durability.mode async"))
    })
}

/// Why a leader of this server cannot be kept from answering once its lease has passed, which takes what sync mode takes. `self_test` is what
/// the self-test found; none if it has not run. Any thread.
pub fn why_leases_are_not_kept(self_test: Option<&Result<(), String>>) -> Option<String> {
    server_support::why_leases_are_not_kept(why_sync_is_impossible().as_deref(), self_test)
}

/// Why this server cannot have a log, in any mode but off. Main thread.
pub fn why_the_log_is_impossible(ctx: &Context) -> Option<String> {
    cluster::why_the_log_is_impossible(ctx)
        .or_else(|| command_names::why_the_log_is_impossible(ctx))
        .or_else(|| stream_settings::why_the_log_is_impossible(ctx))
}
