//! `DURABILITY.FAILOVER`.

use std::time::Duration;

use durability_leadership::Handover;
use valkey_module::{Context, ValkeyError, ValkeyResult, ValkeyString, ValkeyValue};

use crate::exchange::lease_clock;
use crate::lead::planned_failover::FailoverRequest;
use crate::node::{self, Module, Role};

/// How long a planned failover may take unless TIMEOUT is given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest TIMEOUT.
const MOST_TIMEOUT_MS: u64 = 3_600_000;

/// `DURABILITY.FAILOVER [TO node-id] [TIMEOUT milliseconds]`
pub fn failover(_: &Context, arguments: Vec<ValkeyString>) -> ValkeyResult {
    let request = parse(&arguments[1..])?;
    let begun = node::with(|module| begin(module, request));
    begun.unwrap_or(Err(ValkeyError::Str("ERR the durability module is not running")))
}

fn parse(mut options: &[ValkeyString]) -> Result<FailoverRequest, ValkeyError> {
    const USAGE: &str = "ERR usage: DURABILITY.FAILOVER [TO node-id] [TIMEOUT milliseconds]";
    let mut request = FailoverRequest { to: None, asked: lease_clock::now(), timeout: DEFAULT_TIMEOUT };
    while let [name, value, rest @ ..] = options {
        let value = value.try_as_str()?;
        match name.to_string_lossy().to_ascii_lowercase().as_str() {
            "to" => request.to = Some(value.to_owned()),
            "timeout" => {
                let timeout_ms = value.parse().ok().filter(|ms| (1..=MOST_TIMEOUT_MS).contains(ms));
                let timeout_ms = timeout_ms.ok_or(ValkeyError::Str("ERR TIMEOUT is from 1 to 3600000 milliseconds"))?;
                request.timeout = Duration::from_millis(timeout_ms);
            }
            _ => return Err(ValkeyError::Str(USAGE)),
        }
        options = rest;
    }
    if options.is_empty() {
        Ok(request)
    } else {
        Err(ValkeyError::Str(USAGE))
    }
}

fn begin(module: &mut Module, request: FailoverRequest) -> ValkeyResult {
    if module.role != Role::Leader {
        let role = module.role.name();
        let leader = module.shared.view().map(|view| format!(" ({} at {})", view.leader, view.leader_address));
        let leader = leader.unwrap_or_default();
        return Err(ValkeyError::String(format!(
            "ERR the role of this node is {role}: ask the leader{leader} to hand over"
        )));
    }
    let Some(view) = module.shared.view() else {
        return Err(ValkeyError::Str("ERR the log service has not reported any nodes yet"));
    };
    // Answers at once what is wrong already.
    let node_id = module.shared.node_id();
    Handover::begin(lease_clock::now(), &node_id, request.to.as_deref(), request.timeout, &view.peers())
        .map_err(|why| ValkeyError::String(format!("ERR {why}")))?;
    module.shared.failover_ended("");
    module.keeper.hand_over(request);
    Ok(ValkeyValue::SimpleStringStatic("OK"))
}
