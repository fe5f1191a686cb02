//! What clients do: commands, transactions and scripts, each of which takes effect at one moment.

use std::fmt;

use redis::{cmd, Cmd};

/// What a key holds. Only numbers can be incremented, and only texts be appended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Tokens in a row, each written by one operation.
    Text,
    /// An integer.
    Number,
}

/// A key of one round: no two rounds share any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The round that uses it.
    pub round: u32,
    /// What it holds.
    pub kind: Kind,
    /// Tells it from others of its kind.
    pub number: u8,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Text => "text",
            Kind::Number => "number",
        };
        // All keys of a round are in one slot, if there are slots.
        write!(f, "{{{}}}:{kind}:{}", self.round, self.number)
    }
}

/// One atomic operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// `GET key`
    Get(Key),
    /// `SET key value`
    Set(Key, String),
    /// `INCR key`
    Incr(Key),
    /// `APPEND key token`
    Append(Key, String),
    /// `FLUSHALL`. The keys are all that the round has.
    Flush(Vec<Key>),
    /// These, from `MULTI` to `EXEC`. None is a transaction or a script itself.
    Transaction(Vec<Operation>),
    /// `EVAL`: sets `to` to what `from` holds, followed by `token`, and returns what `from` holds.
    Script {
        /// The key that is read.
        from: Key,
        /// The key that is written.
        to: Key,
        /// What makes the value unique.
        token: String,
    },
}

const SCRIPT: &str = "local read = redis.call('GET', KEYS[1]) \
                      redis.call('SET', KEYS[2], (read or '') .. ARGV[1]) \
                      return read";

impl Operation {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(self, Operation::Get(_))
    }

    /// The keys that what it writes depends on, and those that only its answer depends on if `with_answer`.
    pub fn reads(&self, with_answer: bool) -> Vec<Key> {
        match self {
            Operation::Get(key) if with_answer => vec![*key],
            Operation::Get(_) | Operation::Set(..) | Operation::Flush(_) => Vec::new(),
            Operation::Incr(key) | Operation::Append(key, _) => vec![*key],
            Operation::Transaction(operations) => operations.iter().flat_map(|part| part.reads(with_answer)).collect(),
            Operation::Script { from, .. } => vec![*from],
        }
    }

    /// The keys that it writes.
    pub fn writes(&self) -> Vec<Key> {
        match self {
            Operation::Get(_) => Vec::new(),
            Operation::Set(key, _) | Operation::Incr(key) | Operation::Append(key, _) => vec![*key],
            Operation::Transaction(operations) => operations.iter().flat_map(Operation::writes).collect(),
            Operation::Flush(keys) => keys.clone(),
            Operation::Script { to, .. } => vec![*to],
        }
    }

    /// The commands to send, on one connection. The last one's reply is the operation's.
    pub fn commands(&self) -> Vec<Cmd> {
        match self {
            Operation::Get(key) => vec![cmd("GET").arg(key.to_string()).take()],
            Operation::Set(key, value) => vec![cmd("SET").arg(key.to_string()).arg(value).take()],
            Operation::Incr(key) => vec![cmd("INCR").arg(key.to_string()).take()],
            Operation::Append(key, token) => vec![cmd("APPEND").arg(key.to_string()).arg(token).take()],
            Operation::Flush(_) => vec![cmd("FLUSHALL")],
            Operation::Transaction(operations) => {
                let mut commands = vec![cmd("MULTI")];
                commands.extend(operations.iter().flat_map(Operation::commands));
                commands.push(cmd("EXEC"));
                commands
            }
            Operation::Script { from, to, token } => {
                vec![cmd("EVAL").arg(SCRIPT).arg(2).arg(from.to_string()).arg(to.to_string()).arg(token).take()]
            }
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Get(key) => write!(f, "GET {key}"),
            Operation::Set(key, value) => write!(f, "SET {key} {value}"),
            Operation::Incr(key) => write!(f, "INCR {key}"),
            Operation::Append(key, token) => write!(f, "APPEND {key} {token}"),
            Operation::Flush(_) => f.write_str("FLUSHALL"),
            Operation::Transaction(operations) => {
                let operations: Vec<String> = operations.iter().map(Operation::to_string).collect();
                write!(f, "MULTI {{ {} }}", operations.join("; "))
            }
            Operation::Script { from, to, token } => write!(f, "EVAL {{ SET {to} (GET {from})..{token} }}"),
        }
    }
}
