//! What the server tells about a command that ran, or that it refused: `ValkeyModuleCommandResultInfoV1` of Valkey 9.1.

use std::ffi::{c_char, c_int, c_longlong, CStr};

use valkey_module::{raw, Context};

use crate::decide::dependency::Arguments;
use crate::decide::gate::ClientId;
use crate::server::api::{self, api};

/// The struct's version that this file mirrors.
const VERSION: u64 = 1;

/// Lives during the event's callback, with everything that it refers to.
#[repr(C)]
pub struct CommandResult {
    version: u64,
    command_name: *const c_char,
    duration_us: c_longlong,
    dirty: c_longlong,
    client_id: u64,
    is_module_client: c_int,
    argc: c_int,
    argv: *mut *mut raw::RedisModuleString,
    rejection_context: *const c_char,
}

impl CommandResult {
    /// Who ran the command. For a command that a script calls, the id of the script engine's own client.
    #[inline]
    pub fn client(&self) -> ClientId {
        debug_assert_eq!(self.version, VERSION);
        self.client_id
    }

    /// By how much the command advanced the server's count of changes.
    #[inline]
    pub fn changes(&self) -> i64 {
        self.dirty
    }

    /// Whether a module called the command.
    #[inline]
    pub fn is_called_by_module(&self) -> bool {
        self.is_module_client != 0
    }

    /// The address of the command's name: the same one each time the command runs.
    #[inline]
    pub fn name_address(&self) -> usize {
        self.command_name as usize
    }

    /// The command's full name, whatever it was renamed to; `config|get` for a subcommand. `None` if there is no such command.
    pub fn name(&self) -> Option<String> {
        // SAFETY: null, or the server's own name of the command.
        let name = (!self.command_name.is_null()).then(|| unsafe { CStr::from_ptr(self.command_name) })?;
        Some(name.to_string_lossy().into_owned())
    }

    /// Whether the command's full name, in lower case, begins with these two bytes. For what runs after each command: reads no more of the
    /// name than them.
    #[inline]
    pub fn name_begins(&self, [first, second]: [u8; 2]) -> bool {
        let name = self.command_name.cast::<u8>();
        // SAFETY: not null, so a C string. Its second byte is read only after a first one that does not end it.
        first != 0 && !name.is_null() && unsafe { *name == first && *name.add(1) == second }
    }

    /// Whether that is the command's full name, in lower case.
    #[inline]
    pub fn is_named(&self, name: &CStr) -> bool {
        // SAFETY: null, or the server's own name of the command.
        !self.command_name.is_null() && unsafe { CStr::from_ptr(self.command_name) } == name
    }

    /// The command as the client sent it, name first.
    #[inline]
    pub fn arguments(&self) -> &[*mut raw::RedisModuleString] {
        match usize::try_from(self.argc) {
            // SAFETY: the server passes as many arguments, which live as long as this.
            Ok(count) if count > 0 => unsafe { std::slice::from_raw_parts(self.argv, count) },
            _ => &[],
        }
    }

    /// The bytes of each of [`CommandResult::arguments`].
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: the server's own strings, which live as long as this.
        self.arguments().iter().map(|argument| unsafe { api::bytes(*argument) })
    }

    /// The error with which the server refused the command before it ran, or what its user may not touch; `None` if it ran.
    pub fn refusal(&self) -> Option<&[u8]> {
        // SAFETY: null, or a C string that lives as long as this.
        (!self.rejection_context.is_null()).then(|| unsafe { CStr::from_ptr(self.rejection_context) }.to_bytes())
    }
}

/// The arguments of a command, at its event.
pub struct EventArguments<'a> {
    /// That of the event.
    pub ctx: &'a Context,
    /// What ran.
    pub result: &'a CommandResult,
}

impl Arguments for EventArguments<'_> {
    fn count(&self) -> i32 {
        self.result.argc
    }

    fn get(&self, position: usize) -> &[u8] {
        // SAFETY: the server's own string, which lives as long as the event.
        unsafe { api::bytes(self.result.arguments()[position]) }
    }

    fn for_each_movable_key(&self, mut each: impl FnMut(&[u8])) {
        let (argv, argc, mut count) = (self.result.argv, self.result.argc, 0);
        // SAFETY: the server's own arguments, as they were passed to the event's callback.
        let positions = unsafe { api!(RedisModule_GetCommandKeys)(self.ctx.ctx, argv, argc, &raw mut count) };
        if positions.is_null() {
            return;
        }
        // SAFETY: the server returns `count` positions within argv, in memory that the module frees.
        unsafe {
            for position in std::slice::from_raw_parts(positions, count as usize) {
                each(api::bytes(*argv.add(*position as usize)));
            }
            api!(RedisModule_Free)(positions.cast());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    fn named(name: *const c_char) -> CommandResult {
        CommandResult {
            version: VERSION,
            command_name: name,
            duration_us: 0,
            dirty: 0,
            client_id: 1,
            is_module_client: 0,
            argc: 0,
            argv: ptr::null_mut(),
            rejection_context: ptr::null(),
        }
    }

    #[test]
    fn a_name_is_compared_by_its_beginning_and_as_a_whole() {
        let flushall = named(c"flushall".as_ptr());
        assert!(flushall.name_begins(*b"fl") && !flushall.name_begins(*b"fx") && flushall.is_named(c"flushall"));
        assert!(!flushall.is_named(c"flush"));
        let short = named(c"f".as_ptr());
        assert!(!short.name_begins(*b"fl"));
        let nothing = named(ptr::null());
        assert!(!nothing.name_begins(*b"fl") && !nothing.is_named(c"") && nothing.name().is_none());
        assert!(nothing.arguments().is_empty() && nothing.refusal().is_none());
    }
}
