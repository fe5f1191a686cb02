//! Decodes the command that the server is about to run. Main thread only.

use valkey_module::CommandFilterCtx;

use crate::decide::command_properties::Properties;
use crate::node::{self, Module};
pub use crate::server::api::filtered_argument as argument;

/// Names of commands are shorter, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// The name in lower case, in a buffer on the stack; none if it cannot be a command's.
#[inline]
pub fn lowercase<'a>(name: &[u8], buffer: &'a mut [u8; MAX_NAME_BYTES]) -> Option<&'a str> {
    let lowercase = buffer.get_mut(..name.len())?;
    lowercase.copy_from_slice(name);
    lowercase.make_ascii_lowercase();
    std::str::from_utf8(lowercase).ok()
}

/// What the server says about the command. `name` is in lower case.
pub fn properties_of(module: &Module, name: &str, command: &CommandFilterCtx) -> Properties {
    let mut properties = module.commands.get(name);
    if properties.is_some_and(|properties| properties.is_container) && command.args_count() > 1 {
        let sub = String::from_utf8_lossy(argument(command, 1)).to_ascii_lowercase();
        properties = module.commands.get(&format!("{name}|{sub}"));
    }
    // A command that was renamed is in the table, but not by this name.
    properties.unwrap_or(Properties::UNKNOWN)
}

/// Whether there is such a command. If not, the server says so itself.
pub fn is_command(command: &CommandFilterCtx) -> bool {
    let name = (0..command.args_count().min(2)).map(|at| argument(command, at));
    node::with(|module| module.tap_user.knows(&module.ctx, name)).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_too_long_is_no_commands() {
        let mut buffer = [0; MAX_NAME_BYTES];
        assert_eq!(lowercase(b"GetEx", &mut buffer), Some("getex"));
        assert_eq!(lowercase(&[b'A'; MAX_NAME_BYTES], &mut buffer).map(str::len), Some(MAX_NAME_BYTES));
        assert_eq!(lowercase(&[b'A'; MAX_NAME_BYTES + 1], &mut buffer), None);
        assert_eq!(lowercase(b"\xff", &mut buffer), None);
    }
}
