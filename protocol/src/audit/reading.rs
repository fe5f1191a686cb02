//! How a key is read.

use serde::{Deserialize, Serialize};

/// Most elements of a key that are read.
const MAX_ELEMENTS: u64 = 256;
/// Most bytes of a string that are read; also in the arguments of [`value_command`].
const MAX_STRING_BYTES: u64 = 64 << 10;
/// Most memory in bytes that the part of a key may take that is read.
const MAX_MEMORY_BYTES: u64 = 128 << 10;
/// Most consumer groups of a stream that are read.
const MAX_GROUPS: u64 = 64;
/// Most consumers of all groups of a stream together that are read.
const MAX_CONSUMERS: u64 = 256;

/// The type of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Kind {
    String,
    List,
    Set,
    Hash,
    SortedSet,
    Stream,
}

impl Kind {
    /// The reply to `TYPE`.
    pub fn word(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::List => "list",
            Kind::Set => "set",
            Kind::Hash => "hash",
            Kind::SortedSet => "zset",
            Kind::Stream => "stream",
        }
    }

    /// The type in a reply to `TYPE`; `None` for a module's type.
    pub fn from_word(word: &[u8]) -> Option<Self> {
        let all = [Kind::String, Kind::List, Kind::Set, Kind::Hash, Kind::SortedSet, Kind::Stream];
        all.into_iter().find(|kind| kind.word().as_bytes() == word)
    }

    /// The command that returns the length.
    pub fn length_command(self) -> &'static str {
        match self {
            Kind::String => "STRLEN",
            Kind::List => "LLEN",
            Kind::Set => "SCARD",
            Kind::Hash => "HLEN",
            Kind::SortedSet => "ZCARD",
            Kind::Stream => "XLEN",
        }
    }
}

/// What is read of a key beside its type, length and expire time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
    /// The value, or its beginning.
    pub value: bool,
    /// The consumer groups of a stream; only with the value.
    pub groups: bool,
}

impl Parts {
    /// What is read of a key of that length that takes so much memory by `MEMORY USAGE key SAMPLES 256`, which estimates from the beginning
    /// of the value, as much as is read.
    pub fn of(kind: Kind, length: u64, memory_bytes: u64) -> Self {
        let read = length.min(MAX_ELEMENTS);
        let value = match kind {
            // Read up to a number of bytes.
            Kind::String => true,
            Kind::Set | Kind::Hash => length <= MAX_ELEMENTS && memory_bytes <= MAX_MEMORY_BYTES,
            Kind::List | Kind::SortedSet | Kind::Stream => {
                memory_bytes / length.max(1) * read <= MAX_MEMORY_BYTES || memory_bytes <= MAX_MEMORY_BYTES
            }
        };
        Parts { value, groups: false }
    }

    /// Adds the consumer groups, if there are not too many.
    pub fn with_groups(self, groups: u64, consumers: u64) -> Self {
        Parts { groups: self.value && groups <= MAX_GROUPS && consumers <= MAX_CONSUMERS, ..self }
    }

    /// Whether so many groups are few enough to count their consumers.
    pub fn may_count_consumers(groups: u64) -> bool {
        groups <= MAX_GROUPS
    }

    /// Whether these parts are all of a key of that length.
    pub fn are_whole(self, kind: Kind, length: u64) -> bool {
        let bound = if kind == Kind::String { MAX_STRING_BYTES } else { MAX_ELEMENTS };
        self.value && length <= bound && (self.groups || kind != Kind::Stream)
    }
}

/// The command that reads those parts of a key: its words before the key, and after it. After `HGETALL`, `HPEXPIRETIME` reads the expire
/// times of the returned fields.
pub fn value_command(kind: Kind, parts: Parts) -> Option<(&'static [&'static str], &'static [&'static str])> {
    if !parts.value {
        return None;
    }
    Some(match kind {
        Kind::String => (&["GETRANGE"], &["0", "65535"]),
        Kind::List => (&["LRANGE"], &["0", "255"]),
        Kind::Set => (&["SMEMBERS"], &[]),
        Kind::Hash => (&["HGETALL"], &[]),
        Kind::SortedSet => (&["ZRANGE"], &["0", "255", "WITHSCORES"]),
        Kind::Stream if parts.groups => (&["XINFO", "STREAM"], &["FULL", "COUNT", "256"]),
        Kind::Stream => (&["XRANGE"], &["-", "+", "COUNT", "256"]),
    })
}

/// A reply in RESP2, from a server or from a module's call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Null.
    Nil,
    /// A number.
    Integer(i64),
    /// A simple or bulk string.
    Bytes(Vec<u8>),
    /// An array.
    Array(Vec<Value>),
}

impl Value {
    /// The items of an array.
    ///
    /// # Errors
    /// It is no array.
    pub fn items(&self) -> Result<&[Value], String> {
        match self {
            Value::Array(items) => Ok(items),
            _ => Err("a reply is no array".to_owned()),
        }
    }

    /// The number, also if it is text.
    ///
    /// # Errors
    /// It is no number.
    pub fn number(&self) -> Result<i64, String> {
        match self {
            Value::Integer(number) => Some(*number),
            Value::Bytes(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
            _ => None,
        }
        .ok_or_else(|| "a reply is no number".to_owned())
    }

    /// The value of `name` in an array of names and values.
    ///
    /// # Errors
    /// There is none.
    pub fn field(&self, name: &str) -> Result<&Value, String> {
        let pairs = self.items()?.chunks_exact(2);
        let mut found = pairs.filter(|pair| matches!(&pair[0], Value::Bytes(text) if text == name.as_bytes()));
        found.next().map(|pair| &pair[1]).ok_or_else(|| format!("a reply lacks '{name}'"))
    }
}

/// The replies for a key that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Its type.
    pub kind: Kind,
    /// The reply to [`Kind::length_command`].
    pub length: u64,
    /// The reply to `PEXPIRETIME`: milliseconds since 1970, -1 for never.
    pub expire_time_ms: i64,
    /// The parts that were read.
    pub parts: Parts,
    /// The reply to [`value_command`], if there is one.
    pub value: Option<Value>,
    /// The reply to `HPEXPIRETIME` for the fields of a hash, in the order of `value`.
    pub field_times: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_survive_their_words_and_those_of_modules_have_none() {
        for kind in [Kind::String, Kind::List, Kind::Set, Kind::Hash, Kind::SortedSet, Kind::Stream] {
            assert_eq!(Kind::from_word(kind.word().as_bytes()), Some(kind));
        }
        assert_eq!((Kind::from_word(b"none"), Kind::from_word(b"ReJSON-RL")), (None, None));
    }

    #[test]
    fn what_is_read_is_bounded_in_elements_and_bytes() {
        assert!(Parts::of(Kind::Hash, 256, 100_000).value);
        assert!(!Parts::of(Kind::Hash, 257, 10_000).value, "a part of a hash is not the same on both sides");
        assert!(!Parts::of(Kind::Set, 2, 1 << 20).value);
        assert!(Parts::of(Kind::List, 1_000_000, 50_000_000).value, "the beginning takes 13 KB");
        assert!(!Parts::of(Kind::List, 100, 10_000_000).value);
        assert!(Parts::of(Kind::Stream, 0, 500).value, "an empty stream");
    }

    #[test]
    fn a_part_is_not_taken_for_the_whole() {
        let value = Parts { value: true, groups: false };
        assert!(value.are_whole(Kind::List, 256) && !value.are_whole(Kind::List, 257));
        assert!(!value.are_whole(Kind::Stream, 1) && value.with_groups(64, 256).are_whole(Kind::Stream, 1));
        assert_eq!(value.with_groups(64, 257), value);
        assert!(!Parts::default().are_whole(Kind::String, 1));
    }
}
