//! Arguments of commands, as numbers and words.

use durability_protocol::Refusal;

use super::reply::failure;

/// An argument that is text.
pub fn text(argument: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(argument).map_err(|_| failure("an argument is not UTF-8 text"))
}

/// An argument that is a whole number below 2^63. `what` names it in the error.
pub fn number(argument: &[u8], what: &str) -> Result<u64, Refusal> {
    let parsed = text(argument)?.parse().ok().filter(|&value: &u64| i64::try_from(value).is_ok());
    parsed.ok_or_else(|| failure(format!("{what} is not a number")))
}
