//! The slot of what the module puts into the stream by itself. The server passes commands on to the shard that slots move to by the slot that
//! they are said to be of; what is of none is not passed on, and would be missing there. Mirrors what Valkey 9.1 does for `RM_Replicate`.

use std::ffi::{c_char, c_int, c_uint, c_void, CStr};

use valkey_module::raw;

use crate::server::internals::Internals;
use crate::server::stream_queue::NO_SLOT;

/// `READ_FLAGS_CROSSSLOT`.
const CROSS_SLOT: c_int = 1 << 20;
/// What the migrations say that are ended, as the server keeps it for its users.
const UNKNOWN_COMMAND: &CStr = c"The durability module replicated an unknown command";
const SEVERAL_SLOTS: &CStr = c"The durability module replicated a command with keys in several slots";
const NOT_REPLICATED: &CStr = c"Something was written that is not replicated";

/// Functions of the server that it exports to modules only by accident.
pub struct LeavingSlots {
    /// `clusterIsAnySlotExporting`.
    pub is_any_leaving: unsafe extern "C" fn() -> bool,
    /// `lookupCommand`.
    pub lookup_command: unsafe extern "C" fn(*mut *mut raw::RedisModuleString, c_int) -> *mut c_void,
    /// `clusterSlotByCommand`.
    pub slot_by_command:
        unsafe extern "C" fn(*mut c_void, *mut *mut raw::RedisModuleString, c_int, *mut c_int) -> c_int,
    /// `keyHashSlot`.
    pub key_hash_slot: unsafe extern "C" fn(*const c_char, c_int) -> c_uint,
    /// `clusterFailAllSlotExportsWithMessage`.
    pub fail_all: unsafe extern "C" fn(*const c_char),
}

/// Something was written that is not in the stream, and so is not passed on: no slots leave with it missing. Main thread only.
pub fn end_for_unlogged() {
    let Ok(Internals { leaving_slots, .. }) = Internals::get() else { return };
    // SAFETY: look at and change the server's own list; only the main thread does.
    unsafe {
        if (leaving_slots.is_any_leaving)() {
            (leaving_slots.fail_all)(NOT_REPLICATED.as_ptr());
        }
    }
}

impl LeavingSlots {
    /// The slot of a command's keys; [`NO_SLOT`] if it has none, or if no slots leave, when nobody asks. Where it cannot be told, slots cease to
    /// leave, as the command could not be passed on. Main thread only.
    ///
    /// # Safety
    /// `arguments` are live strings of the server.
    pub unsafe fn of_command(&self, arguments: &[*mut raw::RedisModuleString]) -> c_int {
        // SAFETY: looks at the server's own list; only the main thread changes it.
        if !unsafe { (self.is_any_leaving)() } {
            return NO_SLOT;
        }
        let (argv, argc, mut flags) = (arguments.as_ptr().cast_mut(), arguments.len() as c_int, 0);
        // SAFETY: by contract; the functions read the arguments, and the texts are statics that the last one copies.
        unsafe {
            let command = (self.lookup_command)(argv, argc);
            if command.is_null() {
                (self.fail_all)(UNKNOWN_COMMAND.as_ptr());
                return NO_SLOT;
            }
            let slot = (self.slot_by_command)(command, argv, argc, &raw mut flags);
            if slot == NO_SLOT && flags & CROSS_SLOT != 0 {
                (self.fail_all)(SEVERAL_SLOTS.as_ptr());
            }
            slot
        }
    }

    /// The slot of a key; [`NO_SLOT`] if no slots leave. Main thread only.
    pub fn of_key(&self, key: &[u8]) -> c_int {
        // SAFETY: as above; the second function reads so many bytes.
        unsafe {
            match (self.is_any_leaving)() {
                true => (self.key_hash_slot)(key.as_ptr().cast(), key.len() as c_int) as c_int,
                false => NO_SLOT,
            }
        }
    }
}
