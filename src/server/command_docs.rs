//! Tells the server what `COMMAND DOCS` and `ACL CAT` show of a command of the module. While the module loads.

use std::ffi::{c_int, CStr};
use std::ptr;

use valkey_module::{raw, Context};

/// What the server shows of a command. An arity counts the command's name; a negative one is the least.
pub struct Doc<'a> {
    /// The command's name.
    pub name: &'a CStr,
    /// What it does, in a sentence.
    pub summary: &'a CStr,
    /// How long it takes, as `COMMAND DOCS` tells.
    pub complexity: &'a CStr,
    /// The version of the module that has it first.
    pub since: &'a CStr,
    /// How many arguments it takes.
    pub arity: c_int,
    /// Its ACL categories, separated by spaces.
    pub categories: &'a CStr,
}

/// Tells the server about a command that is registered.
///
/// # Errors
/// What the server does not take.
pub fn describe(ctx: &Context, doc: &Doc) -> Result<(), &'static str> {
    let version = raw::RedisModuleCommandInfoVersion {
        version: 1,
        sizeof_historyentry: size_of::<raw::RedisModuleCommandHistoryEntry>(),
        sizeof_keyspec: size_of::<raw::RedisModuleCommandKeySpec>(),
        sizeof_arg: size_of::<raw::RedisModuleCommandArg>(),
    };
    let info = raw::RedisModuleCommandInfo {
        version: &raw const version,
        summary: doc.summary.as_ptr(),
        complexity: doc.complexity.as_ptr(),
        since: doc.since.as_ptr(),
        history: ptr::null_mut(),
        tips: ptr::null(),
        arity: doc.arity,
        key_specs: ptr::null_mut(),
        args: ptr::null_mut(),
    };
    // SAFETY: set while the module loads; all pointers live through the calls, and the server copies what it keeps.
    let status = unsafe {
        let command = raw::RedisModule_GetCommand.map(|get| get(ctx.ctx, doc.name.as_ptr()));
        match (command, raw::RedisModule_SetCommandInfo) {
            (Some(command), Some(set)) if !command.is_null() => set(command, &raw const info),
            _ => raw::REDISMODULE_ERR as c_int,
        }
    };
    if status != raw::REDISMODULE_OK as c_int {
        return Err("documentation");
    }
    if ctx.set_acl_category(doc.name.as_ptr(), doc.categories.as_ptr()) != raw::Status::Ok {
        return Err("ACL categories");
    }
    Ok(())
}
