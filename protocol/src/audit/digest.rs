//! Folds the replies for a key into facts that are equal for equal data, whatever way the data came about.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Kind, Parts, Reading, Value};

/// 128 bits of SHA-256.
pub type Digest = [u8; 16];

/// What is compared of a key. A part that was not read is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its type.
    pub kind: Kind,
    /// Its length, including fields of a hash that have expired and are not deleted.
    pub length: u64,
    /// When it expires, in milliseconds since 1970; `None` if never.
    pub expires_at_ms: Option<u64>,
    /// Digest of its value.
    pub value: Option<Digest>,
    /// Digest of the expire times of a hash's fields.
    pub fields: Option<Digest>,
    /// Digest of the consumer groups of a stream and what is pending in them.
    pub groups: Option<Digest>,
    /// Digest of the consumers of these groups, and what is pending for each.
    pub consumers: Option<Digest>,
}

impl Facts {
    /// The parts that were read for this.
    pub fn parts(&self) -> Parts {
        Parts { value: self.value.is_some(), groups: self.groups.is_some() }
    }
}

/// What exists under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Nothing: the key does not exist, or has expired.
    Nothing,
    /// A value of a module's type, which cannot be compared.
    OtherType,
    /// A key.
    Key(Facts),
}

/// Folds `reading` into facts. Leaves out fields of a hash that have expired by `time_ms`, in milliseconds since 1970 on the leader's clock:
/// the leader hides them before it deletes them, and an engine that follows the log does not.
///
/// # Errors
/// The replies do not have the form that the commands give.
pub fn facts(reading: &Reading, time_ms: u64) -> Result<Facts, String> {
    let Reading { kind, length, expire_time_ms, parts, value, field_times } = reading;
    let mut facts = Facts {
        kind: *kind,
        length: *length,
        expires_at_ms: u64::try_from(*expire_time_ms).ok(),
        value: None,
        fields: None,
        groups: None,
        consumers: None,
    };
    let Some(value) = value else { return Ok(facts) };
    facts.value = Some(match kind {
        Kind::Set => {
            let mut members: Vec<_> = value.items()?.iter().collect();
            members.sort_by(|a, b| compare(a, b));
            digest(members)
        }
        Kind::Hash => {
            let fields = live_fields(value, field_times.as_ref(), time_ms)?;
            let expiring = fields.iter().filter(|(_, time)| *time >= 0);
            facts.fields = Some(digest(expiring.map(|(pair, time)| both(&pair[0], Value::Integer(*time)))));
            digest(fields.iter().flat_map(|(pair, _)| pair.iter()))
        }
        Kind::Stream if parts.groups => {
            facts.groups = Some(groups(value)?);
            facts.consumers = Some(consumers(value)?);
            let fields = [
                "length",
                "last-generated-id",
                "max-deleted-entry-id",
                "entries-added",
                "recorded-first-entry-id",
                "entries",
            ];
            digest(fields.into_iter().map(|name| value.field(name)).collect::<Result<Vec<_>, _>>()?)
        }
        Kind::String | Kind::List | Kind::SortedSet | Kind::Stream => digest([value]),
    });
    Ok(facts)
}

/// The fields of a hash with their values, in order of their names, and when each expires (-1: never).
fn live_fields<'a>(value: &'a Value, times: Option<&Value>, time_ms: u64) -> Result<Vec<(&'a [Value], i64)>, String> {
    let pairs: Vec<_> = value.items()?.chunks_exact(2).collect();
    let times = times.ok_or_else(|| "the expire times of fields were not read".to_owned())?.items()?;
    if pairs.len() != times.len() {
        return Err("not each field has an expire time".to_owned());
    }
    let mut fields = Vec::with_capacity(pairs.len());
    for (pair, time) in pairs.into_iter().zip(times) {
        let time = time.number()?;
        // -2: it expired between two commands.
        let has_expired = time == -2 || u64::try_from(time).is_ok_and(|time| time <= time_ms);
        if !has_expired {
            fields.push((pair, time));
        }
    }
    fields.sort_by(|(a, _), (b, _)| compare(&a[0], &b[0]));
    Ok(fields)
}

/// Without `lag`, which follows from the rest.
fn groups(stream: &Value) -> Result<Digest, String> {
    let mut all = Vec::new();
    for group in stream.field("groups")?.items()? {
        for name in ["name", "last-delivered-id", "entries-read", "pel-count", "pending"] {
            all.push(group.field(name)?.clone());
        }
    }
    Ok(digest(all))
}

/// Without when a consumer was seen or active last, which replicas do not learn from the stream.
fn consumers(stream: &Value) -> Result<Digest, String> {
    let mut all = Vec::new();
    for group in stream.field("groups")?.items()? {
        all.push(group.field("name")?.clone());
        let consumers = group.field("consumers")?.items()?;
        all.push(Value::Integer(consumers.len() as i64));
        for consumer in consumers {
            for name in ["name", "pel-count", "pending"] {
                all.push(consumer.field(name)?.clone());
            }
        }
    }
    Ok(digest(all))
}

fn both(first: &Value, second: Value) -> Value {
    Value::Array(vec![first.clone(), second])
}

fn compare(a: &Value, b: &Value) -> std::cmp::Ordering {
    let bytes = |value: &Value| match value {
        Value::Bytes(bytes) => bytes.clone(),
        other => format!("{other:?}").into_bytes(),
    };
    match (a, b) {
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        _ => bytes(a).cmp(&bytes(b)),
    }
}

fn digest<V: std::borrow::Borrow<Value>>(values: impl IntoIterator<Item = V>) -> Digest {
    let mut hasher = Sha256::new();
    for value in values {
        add(&mut hasher, value.borrow());
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(&hasher.finalize()[..16]);
    digest
}

/// Each value is preceded by its length, so that no two sequences of values give the same bytes.
fn add(hasher: &mut Sha256, value: &Value) {
    match value {
        Value::Nil => hasher.update(b"_"),
        Value::Integer(number) => {
            hasher.update(b":");
            hasher.update(number.to_le_bytes());
        }
        Value::Bytes(bytes) => {
            hasher.update(b"$");
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
        Value::Array(items) => {
            hasher.update(b"*");
            hasher.update((items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| add(hasher, item));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Bytes(text.as_bytes().to_vec())
    }

    fn texts(list: &[&str]) -> Value {
        Value::Array(list.iter().map(|item| text(item)).collect())
    }

    fn numbers(list: &[i64]) -> Value {
        Value::Array(list.iter().map(|number| Value::Integer(*number)).collect())
    }

    fn reading(kind: Kind, value: Value) -> Reading {
        let parts = Parts { value: true, groups: kind == Kind::Stream };
        Reading { kind, length: 3, expire_time_ms: -1, parts, value: Some(value), field_times: None }
    }

    fn of(reading: &Reading) -> Facts {
        facts(reading, 1000).expect("replies as they are")
    }

    fn hash(fields: &[&str], times: &[i64]) -> Reading {
        Reading { field_times: Some(numbers(times)), ..reading(Kind::Hash, texts(fields)) }
    }

    fn consumer(name: &str, seen: i64) -> Value {
        Value::Array(vec![
            text("name"),
            text(name),
            text("seen-time"),
            Value::Integer(seen),
            text("active-time"),
            Value::Integer(seen),
            text("pel-count"),
            Value::Integer(0),
            text("pending"),
            Value::Array(vec![]),
        ])
    }

    fn stream(last: &str, delivered: &str, consumers: Vec<Value>) -> Value {
        let group = vec![
            text("name"),
            text("g"),
            text("last-delivered-id"),
            text(delivered),
            text("entries-read"),
            Value::Nil,
            text("lag"),
            Value::Integer(9),
            text("pel-count"),
            Value::Integer(0),
            text("pending"),
            Value::Array(vec![]),
            text("consumers"),
            Value::Array(consumers),
        ];
        Value::Array(vec![
            text("length"),
            Value::Integer(1),
            text("radix-tree-keys"),
            Value::Integer(1),
            text("last-generated-id"),
            text(last),
            text("max-deleted-entry-id"),
            text("0-0"),
            text("entries-added"),
            Value::Integer(1),
            text("recorded-first-entry-id"),
            text("1-1"),
            text("entries"),
            Value::Array(vec![]),
            text("groups"),
            Value::Array(vec![Value::Array(group)]),
        ])
    }

    #[test]
    fn order_counts_in_lists_and_not_in_sets_and_hashes() {
        let (forth, back) = (texts(&["a", "b", "c"]), texts(&["c", "a", "b"]));
        assert_eq!(of(&reading(Kind::Set, forth.clone())), of(&reading(Kind::Set, back.clone())));
        assert_ne!(of(&reading(Kind::List, forth)), of(&reading(Kind::List, back)));
        let (forth, back) = (hash(&["f", "1", "g", "2"], &[-1, 5000]), hash(&["g", "2", "f", "1"], &[5000, -1]));
        assert_eq!(of(&forth), of(&back));
    }

    #[test]
    fn bytes_that_move_from_one_element_to_the_next_are_seen() {
        assert_ne!(of(&reading(Kind::List, texts(&["ab", "c"]))), of(&reading(Kind::List, texts(&["a", "bc"]))));
        assert_ne!(of(&hash(&["f", "gx"], &[-1])), of(&hash(&["fg", "x"], &[-1])));
    }

    #[test]
    fn each_kind_of_difference_is_seen_where_it_belongs() {
        let one = of(&hash(&["f", "1", "g", "2"], &[-1, 5000]));
        let value = of(&hash(&["f", "1", "g", "3"], &[-1, 5000]));
        assert_ne!(one.value, value.value);
        assert_eq!(one.fields, value.fields);
        let time = of(&hash(&["f", "1", "g", "2"], &[-1, 5001]));
        assert_eq!(one.value, time.value);
        assert_ne!(one.fields, time.fields);
        let never = of(&hash(&["f", "1", "g", "2"], &[-1, -1]));
        assert_ne!(one.fields, never.fields);
        let key = of(&Reading { expire_time_ms: 7, ..hash(&["f", "1", "g", "2"], &[-1, 5000]) });
        assert_eq!((one.expires_at_ms, key.expires_at_ms), (None, Some(7)));
    }

    #[test]
    fn fields_that_have_expired_are_as_if_they_were_gone() {
        let gone = of(&hash(&["f", "1"], &[-1]));
        assert_eq!(
            of(&hash(&["f", "1", "g", "2"], &[-1, 1000])),
            gone,
            "hidden at that very millisecond at the latest"
        );
        assert_eq!(of(&hash(&["f", "1", "g", "2"], &[-1, -2])), gone);
        assert_ne!(of(&hash(&["f", "1", "g", "2"], &[-1, 1001])), gone);
    }

    #[test]
    fn groups_and_consumers_are_told_apart_and_times_of_contact_do_not_count() {
        let read = |value| of(&reading(Kind::Stream, value));
        let one = read(stream("1-1", "0-0", vec![consumer("c", 1)]));
        assert_eq!(one, read(stream("1-1", "0-0", vec![consumer("c", 2)])));
        let none = read(stream("1-1", "0-0", vec![]));
        assert_eq!((one.value, one.groups), (none.value, none.groups));
        assert_ne!(one.consumers, none.consumers);
        let delivered = read(stream("1-1", "1-1", vec![consumer("c", 1)]));
        assert_eq!((one.value, one.consumers), (delivered.value, delivered.consumers));
        assert_ne!(one.groups, delivered.groups);
        assert_ne!(one.value, read(stream("2-1", "0-0", vec![consumer("c", 1)])).value);
    }

    #[test]
    fn replies_of_another_form_are_errors() {
        let bad = [
            reading(Kind::Set, Value::Nil),
            reading(Kind::Hash, texts(&["f", "1"])),
            hash(&["f", "1"], &[]),
            reading(Kind::Stream, texts(&["length"])),
        ];
        for reading in bad {
            assert!(facts(&reading, 0).is_err(), "{reading:?}");
        }
    }
}
