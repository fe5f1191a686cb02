//! Users and their permissions.

use std::ffi::{c_int, CString};
use std::ptr;

use valkey_module::{raw, CallReply, Context};

use crate::exchange::own_logins::TAP;
use crate::server::api::calls::call;
use crate::server::api::functions::{api, bytes};

/// Whether the user of the context's client may run that command.
pub fn may_run(ctx: &Context, command: &[&str]) -> bool {
    let name = ctx.get_current_user();
    // SAFETY: the name is a string that lives through the call; the user is not null, and freed after its use.
    unsafe {
        let user = api!(RedisModule_GetModuleUserFromUserName)(name.inner);
        if user.is_null() {
            // A user that no ACL rule names: one of a module's own.
            return false;
        }
        let checked = check_permissions(ctx, user, command.iter().map(|argument| argument.as_bytes()));
        api!(RedisModule_FreeModuleUser)(user);
        checked.is_ok()
    }
}

/// The names of the users that ACL rules name. `None` if the server does not tell them: its ACL USERS is renamed.
pub fn user_names(ctx: &Context) -> Option<Vec<Vec<u8>>> {
    let CallReply::Array(names) = call(ctx, "ACL", &["USERS"]).ok()? else { return None };
    let name = |name| match name {
        Ok(CallReply::String(name)) => Some(name.as_bytes().to_vec()),
        _ => None,
    };
    names.iter().map(name).collect()
}

/// The rules of a user as `ACL LIST` shows them, hashes of passwords included. `None` if there is no such user.
pub fn user_rules(ctx: &Context, name: &[u8]) -> Option<Vec<u8>> {
    let name = ctx.create_string(name);
    // SAFETY: the name is a string that lives through the call; the user is not null, and freed after its use; the rules are a string of
    // which this holds a reference, which is given back once the bytes are copied.
    unsafe {
        let user = api!(RedisModule_GetModuleUserFromUserName)(name.inner);
        if user.is_null() {
            return None;
        }
        let rules = api!(RedisModule_GetModuleUserACLString)(user);
        let copy = bytes(rules).to_vec();
        api!(RedisModule_FreeString)(ptr::null_mut(), rules);
        api!(RedisModule_FreeModuleUser)(user);
        Some(copy)
    }
}

/// Whether the user may run that command, which may be given in part.
///
/// # Errors
/// `ENOENT` if there is no such command, `EACCES` if the user may not run it.
///
/// # Safety
/// The user is one of the server's that lives through the call.
unsafe fn check_permissions<'a>(
    ctx: &Context,
    user: *mut raw::RedisModuleUser,
    command: impl Iterator<Item = &'a [u8]>,
) -> std::io::Result<()> {
    let arguments: Vec<_> = command.map(|argument| ctx.create_string(argument)).collect();
    let mut pointers: Vec<_> = arguments.iter().map(|argument| argument.inner).collect();
    // SAFETY: by contract; the arguments are strings that live through the call.
    let status =
        unsafe { api!(RedisModule_ACLCheckCommandPermissions)(user, pointers.as_mut_ptr(), pointers.len() as c_int) };
    if status == raw::REDISMODULE_OK as c_int {
        return Ok(());
    }
    Err(std::io::Error::last_os_error())
}

/// The user that the tap logs in as. It may do everything, needs no password, and exists only for the module.
pub struct TapUser(*mut raw::RedisModuleUser);

impl TapUser {
    /// Makes the user.
    ///
    /// # Errors
    /// The server does not take the permissions.
    pub fn new() -> Result<Self, String> {
        let name = CString::new(TAP).map_err(|error| error.to_string())?;
        // SAFETY: the name is a C string.
        let user = unsafe { api!(RedisModule_CreateModuleUser)(name.as_ptr()) };
        for rule in ["on", "allcommands", "allkeys", "allchannels"] {
            let rule_text = CString::new(rule).map_err(|error| error.to_string())?;
            // SAFETY: the user was just made; the rule is a C string.
            if unsafe { api!(RedisModule_SetModuleUserACL)(user, rule_text.as_ptr()) } != raw::REDISMODULE_OK as c_int {
                return Err(format!("the server does not take the ACL rule '{rule}'"));
            }
        }
        Ok(TapUser(user))
    }

    /// Whether the server has a command of that name, or container and subcommand. May be asked anywhere.
    pub fn knows<'a>(&self, ctx: &Context, name: impl Iterator<Item = &'a [u8]>) -> bool {
        // SAFETY: the user lives as long as the module.
        let checked = unsafe { check_permissions(ctx, self.0, name) };
        checked.map_or_else(|error| error.raw_os_error() != Some(libc::ENOENT), |()| true)
    }

    /// Logs the context's client in as this user. Returns the client's id, or `None` if it could not.
    pub fn log_in(&self, ctx: &Context) -> Option<u64> {
        let mut client = 0;
        // SAFETY: the context is that of an auth callback, and the user lives as long as the module.
        let status = unsafe {
            api!(RedisModule_AuthenticateClientWithUser)(ctx.ctx, self.0, None, ptr::null_mut(), &raw mut client)
        };
        (status == raw::REDISMODULE_OK as c_int).then_some(client)
    }
}

impl Drop for TapUser {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and the module is done with it. Clients that are logged in with it are disconnected.
        unsafe { api!(RedisModule_FreeModuleUser)(self.0) };
    }
}
