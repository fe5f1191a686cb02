//! Refuses writes while the log is too far behind. Main thread only.

use std::time::Instant;

use valkey_module::{CommandFilterCtx, ContextFlags};

use crate::decide::command_properties::Properties;
use crate::decide::gate::ClientId;
use crate::decide::queued_writes::Transactions;
use crate::decide::write_limit::{Behind, Limits, Verdict};
use crate::node::command_filter::answer::refuse_data;
use crate::node::command_filter::{primary, refusal};
use crate::node::limits::configured_limits;
use crate::node::{self, Module};
use crate::server::api;

/// Refuses a write at the limit (`is_refusing`). While that may come soon, keeps account of transactions, so that those that hold a write
/// are refused as a whole when they are executed beyond the limit, and no others. While writers are slowed down, holds the replies of writes.
pub fn filter_write(
    command: &CommandFilterCtx,
    name: &str,
    client: ClientId,
    properties: Properties,
    mut is_refusing: bool,
) {
    match name {
        "multi" => return refusal::transactions(|transactions| transactions.begin(client)),
        "discard" | "reset" | "quit" => {
            refusal::transactions(|transactions| transactions.end(client));
            return;
        }
        "exec" => {}
        _ if properties.is_write => {}
        // For what it calls.
        _ if properties.runs_others && !is_refusing => {
            node::with(|module| {
                judge_now(module);
                module.script_caller = client;
            });
            return;
        }
        _ => return,
    }
    let flags = api::client_flags(client);
    if primary::note(command, name, flags.is_primary) {
        return;
    }
    is_refusing = is_refusing || node::with(judge_now) == Some(true);
    if name == "exec" {
        let holds_no_write = refusal::transactions(|transactions| transactions.end(client));
        node::with(|module| module.script_caller = client);
        if !flags.is_in_transaction || holds_no_write {
            return;
        }
        if is_refusing {
            return refuse_data(command, true, true, String::new);
        }
        node::with(|module| module.throttle(client));
    } else if is_refusing {
        let Some(behind) = node::with(Module::behind) else { return };
        refuse_data(command, false, flags.is_in_transaction, || too_far_behind(&behind, &configured_limits()));
    } else if flags.is_in_transaction {
        refusal::transactions(|transactions: &mut Transactions| transactions.queued_write(client));
    } else {
        node::with(|module| module.throttle(client));
    }
}

/// Judges to the moment, as the event loop may have slept since it last did. Not while a script runs, which is to see one verdict. Returns
/// whether writes are refused.
fn judge_now(module: &mut Module) -> bool {
    if !module.ctx.get_flags().contains(ContextFlags::LUA) {
        let offset = api::replication_offset(&module.ctx);
        module.judge_writes(Instant::now(), offset);
    }
    module.limits.writes.verdict() == Verdict::Refused
}

fn too_far_behind(behind: &Behind, limits: &Limits) -> String {
    let lag_ms = behind.lag.as_millis();
    if behind.pending_bytes > limits.pending_bytes / 2 && behind.lag <= limits.lag / 2 {
        return format!(
            "CLUSTERDOWN durability: writes are refused, the log is {} bytes behind (limit {} bytes); reads go on",
            behind.pending_bytes, limits.pending_bytes
        );
    }
    format!(
        "CLUSTERDOWN durability: writes are refused, the log is {lag_ms} ms behind (limit {} ms); reads go on",
        limits.lag.as_millis()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_error_names_the_limit_that_was_reached() {
        let limits = Limits { lag: Duration::from_millis(1000), pending_bytes: 100 };
        let why = |lag_ms, pending_bytes| {
            too_far_behind(&Behind { lag: Duration::from_millis(lag_ms), pending_bytes }, &limits)
        };
        assert!(why(10, 100).contains("100 bytes behind (limit 100 bytes)"));
        assert!(why(1000, 10).contains("1000 ms behind (limit 1000 ms)"));
        assert!(why(1000, 100).contains("1000 ms behind"));
    }
}
