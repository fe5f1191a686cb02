//! What `COMMAND DOCS` and `ACL CAT` show of the module's commands.

use std::ffi::c_int;

use valkey_module::Context;

use crate::front::start::c_string;
use crate::node::command_filter::answer::REFUSED;
use crate::node::command_filter::cluster_commands::ADD_SLOTS;
use crate::server;
use crate::server::debug_command::POPULATE;

struct Doc {
    name: &'static str,
    summary: &'static str,
    complexity: &'static str,
    /// Number of words, the command's name included. Negative: at least that many.
    arity: c_int,
    /// ACL categories.
    categories: &'static str,
}

/// The ACL category of all the module's commands.
pub const CATEGORY: &str = "durability";

const DOCS: [Doc; 9] = [
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
        // The same as those of INFO, which shows the same.
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
        name: ADD_SLOTS,
        summary: "Internal: what CLUSTER ADDSLOTS does, once the log has stored it.",
        complexity: "O(N)",
        arity: -2,
        categories: "durability admin dangerous",
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

/// Gives the server the documentation and the ACL categories of the commands. Main thread, while the module loads.
///
/// # Errors
/// The server does not take them.
pub fn register(ctx: &Context) -> Result<(), String> {
    let since = c_string("0.1.0")?;
    for doc in DOCS {
        let (name, summary, complexity) = (c_string(doc.name)?, c_string(doc.summary)?, c_string(doc.complexity)?);
        let categories = c_string(doc.categories)?;
        let told = server::command_docs::Doc {
            name: &name,
            summary: &summary,
            complexity: &complexity,
            since: &since,
            arity: doc.arity,
            categories: &categories,
        };
        server::command_docs::describe(ctx, &told)
            .map_err(|what| format!("the server does not take the {what} of {}", doc.name))?;
    }
    Ok(())
}
