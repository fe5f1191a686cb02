//! Configs that are judged together: what the `valkey-module` crate leaves out when it registers them. Main thread only.

use std::ffi::{c_char, c_int, c_uint, c_void, CStr};
use std::mem::ManuallyDrop;
use std::sync::{Mutex, OnceLock};

use valkey_module::{raw, Context, ValkeyString};

use crate::base::panic_guard::guard;

const PRESENT: &str = "every server that this module loads into registers configs";

/// What judges configs of this module together.
pub struct ConfigCheck {
    /// Whether the config of that name (without the module's) is one of them.
    pub concerns: fn(&str) -> bool,
    /// Called when a `CONFIG SET` has set all that it changes, if one of them was among it. An error undoes all of it.
    pub check: fn() -> Result<(), String>,
}

type RegisterBool = unsafe extern "C" fn(
    *mut raw::RedisModuleCtx,
    *const c_char,
    c_int,
    c_uint,
    raw::RedisModuleConfigGetBoolFunc,
    raw::RedisModuleConfigSetBoolFunc,
    raw::RedisModuleConfigApplyFunc,
    *mut c_void,
) -> c_int;

type RegisterString = unsafe extern "C" fn(
    *mut raw::RedisModuleCtx,
    *const c_char,
    *const c_char,
    c_uint,
    raw::RedisModuleConfigGetStringFunc,
    raw::RedisModuleConfigSetStringFunc,
    raw::RedisModuleConfigApplyFunc,
    *mut c_void,
) -> c_int;

static CONFIG_CHECK: OnceLock<ConfigCheck> = OnceLock::new();
static REGISTER: Mutex<Option<(RegisterBool, RegisterString)>> = Mutex::new(None);

/// Has configs judged together that are registered from now on, while the module loads. The `valkey-module` crate registers
/// them without that step, so it is given functions that add it.
pub fn check_configs(check: ConfigCheck) {
    // A library that stays in memory between two loads of the module has it already.
    let _ = CONFIG_CHECK.set(check);
    let mut register = REGISTER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // SAFETY: these are set at the beginning of each load, and read and written by the main thread only.
    unsafe {
        *register = Some((
            raw::RedisModule_RegisterBoolConfig.expect(PRESENT),
            raw::RedisModule_RegisterStringConfig.expect(PRESENT),
        ));
        raw::RedisModule_RegisterBoolConfig = Some(register_bool);
        raw::RedisModule_RegisterStringConfig = Some(register_string);
    }
}

/// Has the server set all configs that were registered, to what its configuration file says or else to their defaults. If a value is not
/// valid, the server says so, and gives up on the module once that has loaded.
pub fn load_configs(ctx: &Context) {
    // SAFETY: set at the beginning of each load; the context is valid.
    unsafe { raw::RedisModule_LoadConfigs.expect(PRESENT)(ctx.ctx) };
}

fn originals() -> Option<(RegisterBool, RegisterString)> {
    *REGISTER.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The step for the config of that name.
///
/// # Safety
/// The name is a C string.
unsafe fn apply_step(name: *const c_char) -> raw::RedisModuleConfigApplyFunc {
    // SAFETY: by contract.
    let name = unsafe { CStr::from_ptr(name) }.to_str().ok()?;
    let is_judged = CONFIG_CHECK.get().is_some_and(|check| (check.concerns)(name));
    if is_judged {
        Some(judge_configs)
    } else {
        None
    }
}

unsafe extern "C" fn register_bool(
    ctx: *mut raw::RedisModuleCtx,
    name: *const c_char,
    default: c_int,
    flags: c_uint,
    get: raw::RedisModuleConfigGetBoolFunc,
    set: raw::RedisModuleConfigSetBoolFunc,
    _: raw::RedisModuleConfigApplyFunc,
    data: *mut c_void,
) -> c_int {
    let Some((register, _)) = originals() else { return raw::REDISMODULE_ERR as c_int };
    // SAFETY: what this was called with.
    unsafe { register(ctx, name, default, flags, get, set, apply_step(name), data) }
}

unsafe extern "C" fn register_string(
    ctx: *mut raw::RedisModuleCtx,
    name: *const c_char,
    default: *const c_char,
    flags: c_uint,
    get: raw::RedisModuleConfigGetStringFunc,
    set: raw::RedisModuleConfigSetStringFunc,
    _: raw::RedisModuleConfigApplyFunc,
    data: *mut c_void,
) -> c_int {
    let Some((_, register)) = originals() else { return raw::REDISMODULE_ERR as c_int };
    // SAFETY: what this was called with.
    unsafe { register(ctx, name, default, flags, get, set, apply_step(name), data) }
}

unsafe extern "C" fn judge_configs(
    _: *mut raw::RedisModuleCtx,
    _: *mut c_void,
    error: *mut *mut raw::RedisModuleString,
) -> c_int {
    let judged =
        guard("judging the configuration", Ok(()), || CONFIG_CHECK.get().map_or(Ok(()), |check| (check.check)()));
    let Err(why) = judged else { return raw::REDISMODULE_OK as c_int };
    let text = ManuallyDrop::new(ValkeyString::create(None, why.as_str()));
    // SAFETY: the server's, which takes the string over.
    unsafe { *error = text.inner };
    raw::REDISMODULE_ERR as c_int
}
