//! Replies, and how they are written in either version of RESP.

use std::fmt::Write;

use bytes::{Bytes, BytesMut};
use durability_protocol::{Code, Refusal};

/// The version of RESP that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// RESP2.
    #[default]
    Two,
    /// RESP3, after `HELLO 3`.
    Three,
}

impl Protocol {
    /// Its number, as in `HELLO`.
    pub fn number(self) -> u64 {
        match self {
            Protocol::Two => 2,
            Protocol::Three => 3,
        }
    }
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// One line of text.
    Simple(&'static str),
    /// One line that begins with a code.
    Error(String),
    /// A whole number.
    Integer(i64),
    /// Any bytes.
    Bulk(Bytes),
    /// Null in place of a bulk string.
    Null,
    /// Null in place of an array.
    NullArray,
    /// Replies in order.
    Array(Vec<Reply>),
    /// Names and values; in RESP2 an array of both in turn.
    Map(Vec<(Reply, Reply)>),
    /// A push message; in RESP2 an array.
    Push(Vec<Reply>),
    /// Several replies to one command.
    Each(Vec<Reply>),
}

/// `+OK`.
pub fn ok() -> Reply {
    simple("OK")
}

/// A simple string without line ends.
pub fn simple(text: &'static str) -> Reply {
    Reply::Simple(text)
}

/// An integer. Offsets are below 2^63: Valkey's are signed.
pub fn integer(value: u64) -> Reply {
    Reply::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

/// A bulk string.
pub fn bulk(text: impl Into<String>) -> Reply {
    Reply::Bulk(text.into().into())
}

/// An array.
pub fn array(items: Vec<Reply>) -> Reply {
    Reply::Array(items)
}

/// An error. Its text becomes one line, whatever it contains.
pub fn error(refusal: &Refusal) -> Reply {
    Reply::Error(refusal.to_string().replace(['\r', '\n'], " "))
}

/// `-ERR` with a text.
pub fn failure(text: impl Into<String>) -> Refusal {
    Refusal::new(Code::Err, text)
}

/// Adds `reply` to `out`.
pub fn encode(out: &mut BytesMut, reply: &Reply, protocol: Protocol) {
    match reply {
        Reply::Simple(text) => line(out, '+', text),
        Reply::Error(text) => line(out, '-', text),
        Reply::Integer(value) => line(out, ':', value),
        Reply::Bulk(bytes) => {
            line(out, '$', bytes.len());
            out.extend_from_slice(bytes);
            out.extend_from_slice(b"\r\n");
        }
        Reply::Null | Reply::NullArray if protocol == Protocol::Three => line(out, '_', ""),
        Reply::Null => line(out, '$', -1),
        Reply::NullArray => line(out, '*', -1),
        Reply::Array(items) => encode_items(out, '*', items, protocol),
        Reply::Push(items) if protocol == Protocol::Three => encode_items(out, '>', items, protocol),
        Reply::Push(items) => encode_items(out, '*', items, protocol),
        Reply::Map(fields) => {
            match protocol {
                Protocol::Two => line(out, '*', fields.len() * 2),
                Protocol::Three => line(out, '%', fields.len()),
            }
            for (name, value) in fields {
                encode(out, name, protocol);
                encode(out, value, protocol);
            }
        }
        Reply::Each(replies) => replies.iter().for_each(|reply| encode(out, reply, protocol)),
    }
}

fn encode_items(out: &mut BytesMut, kind: char, items: &[Reply], protocol: Protocol) {
    line(out, kind, items.len());
    items.iter().for_each(|item| encode(out, item, protocol));
}

fn line(out: &mut BytesMut, kind: char, content: impl std::fmt::Display) {
    // Fails only if `content` does, and numbers and text do not.
    let _ = write!(out, "{kind}{content}\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_written_as_its_protocol_has_it() {
        let fields = || vec![(bulk("a"), integer(1)), (bulk("b"), Reply::Null)];
        for (reply, two, three) in [
            (ok(), "+OK\r\n", "+OK\r\n"),
            (error(&failure("no\r\nline")), "-ERR no  line\r\n", "-ERR no  line\r\n"),
            (Reply::Integer(-3), ":-3\r\n", ":-3\r\n"),
            (integer(u64::MAX), ":9223372036854775807\r\n", ":9223372036854775807\r\n"),
            (bulk("x\r\ny"), "$4\r\nx\r\ny\r\n", "$4\r\nx\r\ny\r\n"),
            (bulk(""), "$0\r\n\r\n", "$0\r\n\r\n"),
            (Reply::Null, "$-1\r\n", "_\r\n"),
            (Reply::NullArray, "*-1\r\n", "_\r\n"),
            (array(vec![]), "*0\r\n", "*0\r\n"),
            (array(vec![integer(1), Reply::Null]), "*2\r\n:1\r\n$-1\r\n", "*2\r\n:1\r\n_\r\n"),
            (
                Reply::Map(fields()),
                "*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n$-1\r\n",
                "%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n_\r\n",
            ),
            (Reply::Push(vec![integer(1)]), "*1\r\n:1\r\n", ">1\r\n:1\r\n"),
            (Reply::Each(vec![integer(1), ok()]), ":1\r\n+OK\r\n", ":1\r\n+OK\r\n"),
        ] {
            for (protocol, expected) in [(Protocol::Two, two), (Protocol::Three, three)] {
                let mut out = BytesMut::new();
                encode(&mut out, &reply, protocol);
                assert_eq!(out, expected.as_bytes(), "{reply:?} in RESP{}", protocol.number());
            }
        }
    }
}
