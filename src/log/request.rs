//! Commands as they are sent, to the log service and to the module's own server. Any thread.

use durability_protocol::{Refusal, CHECK};
use redis_protocol::resp2;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame};

use crate::settings;
use crate::settings::token::{self, TokenError};

/// The bytes of a command with those arguments.
pub fn encode(arguments: &[&str]) -> Vec<u8> {
    encode_bytes(arguments.iter().map(|argument| argument.as_bytes()))
}

/// As [`encode`], for arguments that are not text.
pub fn encode_bytes<'a>(arguments: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let frame = OwnedFrame::Array(arguments.map(|argument| OwnedFrame::BulkString(argument.to_vec())).collect());
    let mut bytes = vec![0; frame.encode_len(false)];
    resp2::encode::encode(&mut bytes, &frame, false).expect("the buffer has the length that the frame asks for");
    bytes
}

/// The arguments of the login to this node's shard.
///
/// # Errors
/// There is no token that can be sent.
pub fn login() -> Result<[String; 3], TokenError> {
    Ok(["AUTH".to_owned(), settings::SHARD.value(), token::current()?])
}

/// The log's id, from the answer to `LOG.CHECK`.
///
/// # Errors
/// The answer is no id.
pub fn read_log_id(reply: &OwnedFrame) -> Result<String, String> {
    match reply {
        OwnedFrame::BulkString(id) if !id.is_empty() => Ok(String::from_utf8_lossy(id).into_owned()),
        other => Err(format!("LOG.CHECK answered {other:?}")),
    }
}

/// What to tell an operator whose log service does not compare logs as this module does.
pub fn other_build(refusal: &Refusal) -> String {
    format!("module and log service are of different builds; use those of one build ({CHECK}: {refusal})")
}
