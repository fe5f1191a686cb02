//! What `COMMAND DOCS` and `ACL CAT` show of the module's commands.

use std::ffi::c_int;
use std::ptr;

use valkey_module::{raw, Context};

use crate::front::start::c_string;
use crate::node::command_filter::REFUSED;
use crate::server::debug_command::POPULATE;

struct Doc {
    name: &'static str,
    summary: &'static str,
    complexity: &'static str,
    /// With the command's name; negative: at least.
    arity: c_int,
    /// ACL categories.
    categories: &'static str,
}

/// The ACL category of all the module's commands.
pub const CATEGORY: &str = "durability";

const DOCS: [Doc; 8] = [
    Doc {
        name: "durability.mode",
        summary: "Shows or changes how durable an answered write is: sync, async or off.",
        complexity: "O(1); switching it off O(N) with N held clients",
        arity: -1,
        categories: "durability admin dangerous",
    },
    Doc {
        name: "durability.lag",
        summary: "Shows the age in milliseconds of the oldest write that the log has not acknowledged, or its history.",
        complexity: "O(1)",
        arity: -1,
        categories: "durability",
    },
    Doc {
        name: "durability.status",
        summary: "Shows mode, role, offsets, lag and counters of the durability module.",
        complexity: "O(1)",
        arity: 1,
        // Those of INFO, which shows the same.
        categories: "durability dangerous slow",
    },
    Doc {
        name: "durability.failover",
        summary: "Hands leadership over to another node of the shard.",
        complexity: "O(1)",
        arity: -1,
        categories: "durability admin dangerous",
    },
    Doc {
        name: "durability.accept-log",
        summary: "Accepts a log that contradicts what this node knows: its data, or with SEED this node's, are right.",
        complexity: "O(1)",
        arity: -2,
        categories: "durability admin dangerous",
    },
    Doc {
        name: "durability.help",
        summary: "Shows the module's commands.",
        complexity: "O(1)",
        arity: 1,
        categories: "durability",
    },
    Doc {
        name: POPULATE,
        summary: "Internal: what DEBUG POPULATE does, by writes.",
        complexity: "O(N)",
        arity: -2,
        categories: "durability admin dangerous",
    },
    Doc {
        name: REFUSED,
        summary: "Internal: answers commands that are refused.",
        complexity: "O(1)",
        arity: -1,
        categories: "durability",
    },
];

/// Tells the server about the commands. While the module loads.
///
/// # Errors
/// The server does not take what it is told.
pub fn register(ctx: &Context) -> Result<(), String> {
    let since = c_string("0.1.0")?;
    for doc in DOCS {
        let (name, summary, complexity) = (c_string(doc.name)?, c_string(doc.summary)?, c_string(doc.complexity)?);
        let version = raw::RedisModuleCommandInfoVersion {
            version: 1,
            sizeof_historyentry: std::mem::size_of::<raw::RedisModuleCommandHistoryEntry>(),
            sizeof_keyspec: std::mem::size_of::<raw::RedisModuleCommandKeySpec>(),
            sizeof_arg: std::mem::size_of::<raw::RedisModuleCommandArg>(),
        };
        let info = raw::RedisModuleCommandInfo {
            version: &raw const version,
            summary: summary.as_ptr(),
            complexity: complexity.as_ptr(),
            since: since.as_ptr(),
            history: ptr::null_mut(),
            tips: ptr::null(),
            arity: doc.arity,
            key_specs: ptr::null_mut(),
            args: ptr::null_mut(),
        };
        // SAFETY: set while the module loads; all pointers live through the calls, and the server copies what it keeps.
        let status = unsafe {
            let command = raw::RedisModule_GetCommand.map(|get| get(ctx.ctx, name.as_ptr()));
            match (command, raw::RedisModule_SetCommandInfo) {
                (Some(command), Some(set)) if !command.is_null() => set(command, &raw const info),
                _ => raw::REDISMODULE_ERR as c_int,
            }
        };
        if status != raw::REDISMODULE_OK as c_int {
            return Err(format!("the server does not take the documentation of {}", doc.name));
        }
        let categories = c_string(doc.categories)?;
        if ctx.set_acl_category(name.as_ptr(), categories.as_ptr()) != raw::Status::Ok {
            return Err(format!("the server does not take the ACL categories of {}", doc.name));
        }
    }
    Ok(())
}
