//! What a correct server answers: the operations on a plain map.

use std::collections::BTreeMap;

use redis::Value;

use crate::operation::{Key, Operation};

/// All keys and their values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Keyspace(BTreeMap<Key, String>);

impl Keyspace {
    /// Carries the operation out, and returns its reply.
    pub fn apply(&mut self, operation: &Operation) -> Value {
        match operation {
            Operation::Get(key) => self.get(key),
            Operation::Set(key, value) => {
                self.0.insert(*key, value.clone());
                Value::Okay
            }
            Operation::Incr(key) => {
                let value = self.0.entry(*key).or_default();
                let number = value.parse().unwrap_or(0) + 1;
                *value = number.to_string();
                Value::Int(number)
            }
            Operation::Append(key, token) => {
                let value = self.0.entry(*key).or_default();
                value.push_str(token);
                Value::Int(value.len() as i64)
            }
            Operation::Flush(_) => {
                self.0.clear();
                Value::Okay
            }
            Operation::Transaction(operations) => {
                Value::Array(operations.iter().map(|operation| self.apply(operation)).collect())
            }
            Operation::Script { from, to, token } => {
                let read = self.get(from);
                let value = self.0.get(from).cloned().unwrap_or_default() + token;
                self.0.insert(*to, value);
                read
            }
        }
    }

    fn get(&self, key: &Key) -> Value {
        self.0.get(key).map_or(Value::Nil, |value| Value::BulkString(value.clone().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Kind;

    const TEXT: Key = Key { round: 1, kind: Kind::Text, number: 0 };
    const NUMBER: Key = Key { round: 1, kind: Kind::Number, number: 0 };

    fn text(value: &str) -> Value {
        Value::BulkString(value.as_bytes().to_vec())
    }

    #[test]
    fn answers_as_the_server_does() {
        let mut keyspace = Keyspace::default();
        assert_eq!(keyspace.apply(&Operation::Get(TEXT)), Value::Nil);
        assert_eq!(keyspace.apply(&Operation::Append(TEXT, "a.".into())), Value::Int(2));
        assert_eq!(keyspace.apply(&Operation::Append(TEXT, "b.".into())), Value::Int(4));
        assert_eq!(keyspace.apply(&Operation::Get(TEXT)), text("a.b."));
        assert_eq!(keyspace.apply(&Operation::Set(TEXT, "c.".into())), Value::Okay);
        assert_eq!(keyspace.apply(&Operation::Incr(NUMBER)), Value::Int(1));
        assert_eq!(keyspace.apply(&Operation::Set(NUMBER, "7000".into())), Value::Okay);
        assert_eq!(keyspace.apply(&Operation::Incr(NUMBER)), Value::Int(7001));
    }

    #[test]
    fn transactions_and_scripts_are_whole() {
        let mut keyspace = Keyspace::default();
        let transaction = Operation::Transaction(vec![Operation::Incr(NUMBER), Operation::Get(TEXT)]);
        assert_eq!(keyspace.apply(&transaction), Value::Array(vec![Value::Int(1), Value::Nil]));
        let script = Operation::Script { from: NUMBER, to: TEXT, token: "x.".into() };
        assert_eq!(keyspace.apply(&script), text("1"));
        assert_eq!(keyspace.apply(&Operation::Get(TEXT)), text("1x."));
        assert_eq!(keyspace.apply(&Operation::Flush(vec![TEXT, NUMBER])), Value::Okay);
        assert_eq!(keyspace.apply(&Operation::Get(TEXT)), Value::Nil);
    }
}
