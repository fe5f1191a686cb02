//! Replies, encoded by the `redis-protocol` crate.

use bytes::BytesMut;
use durability_protocol::{Code, Refusal};
use redis_protocol::resp2::encode::extend_encode;
use redis_protocol::resp2::types::BytesFrame;

/// A reply.
pub type Reply = BytesFrame;

/// `+OK`.
pub fn ok() -> Reply {
    simple("OK")
}

/// A simple string without line ends.
pub fn simple(text: &str) -> Reply {
    Reply::SimpleString(text.to_owned().into())
}

/// An integer. Offsets are below 2^63: Valkey's are signed.
pub fn integer(value: u64) -> Reply {
    Reply::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

/// A bulk string.
pub fn bulk(text: impl Into<String>) -> Reply {
    Reply::BulkString(text.into().into())
}

/// An array.
pub fn array(items: Vec<Reply>) -> Reply {
    Reply::Array(items)
}

/// An error. Its text becomes one line, whatever it was made of.
pub fn error(refusal: &Refusal) -> Reply {
    let line = refusal.to_string().replace(['\r', '\n'], " ");
    Reply::Error(line.into())
}

/// `-ERR` with a text.
pub fn failure(text: impl Into<String>) -> Refusal {
    Refusal::new(Code::Err, text)
}

/// Adds `reply` to `out`.
pub fn encode(out: &mut BytesMut, reply: &Reply) {
    if let Err(error) = extend_encode(out, reply, false) {
        tracing::error!("a reply could not be encoded: {error}");
        out.extend_from_slice(b"-ERR the reply could not be encoded\r\n");
    }
}
