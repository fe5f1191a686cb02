//! `DURABILITY.FAILOVER`.

use std::time::Duration;

use valkey_module::{Context, ValkeyError, ValkeyResult, ValkeyString, ValkeyValue};

use crate::exchange::lease_clock;
use crate::lead::planned_failover::FailoverRequest;
use crate::node;
use crate::node::hand_over::{self, DEFAULT_TIMEOUT};

/// The largest TIMEOUT.
const MOST_TIMEOUT_MS: u64 = 3_600_000;

/// `DURABILITY.FAILOVER [TO node-id] [TIMEOUT milliseconds]`
pub fn failover(_: &Context, arguments: Vec<ValkeyString>) -> ValkeyResult {
    let request = parse(&arguments[1..])?;
    let begun = node::with(|module| match hand_over::begin(module, request) {
        Ok(()) => Ok(ValkeyValue::SimpleStringStatic("OK")),
        Err(why) => Err(ValkeyError::String(format!("ERR {why}"))),
    });
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
