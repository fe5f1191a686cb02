//! `DURABILITY.ADDSLOTS`: runs instead of CLUSTER ADDSLOTS and ADDSLOTSRANGE.

use valkey_module::{Context, ValkeyError, ValkeyResult, ValkeyString, ValkeyValue};

use crate::node::{self, claims};

/// `DURABILITY.ADDSLOTS slot ...`: the log stores the slots, then the server takes them, and then the client is answered.
pub fn add_slots(ctx: &Context, arguments: Vec<ValkeyString>) -> ValkeyResult {
    let slots = arguments[1..].iter().map(|slot| slot.to_string_lossy().parse().ok()).collect::<Option<Vec<u16>>>();
    let slots = slots.filter(|slots| !slots.is_empty()).ok_or(ValkeyError::WrongArity)?;
    let begun = node::with(|module| claims::begin_to_add(module, ctx, slots));
    match begun {
        Some(Ok(())) => Ok(ValkeyValue::NoReply),
        Some(Err(why)) => Err(ValkeyError::String(format!("ERR durability: {why}"))),
        None => Err(ValkeyError::Str("ERR the durability module is not running")),
    }
}
