//! Compares the leader's keys with the log's.

use std::fmt;

use durability_protocol::audit::{Facts, Found};

/// Most bytes of a key's name that are shown.
const SHOWN_BYTES: usize = 128;

/// What differs, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The number of the database.
    pub database: u32,
    /// The name of the key; `None` if the difference is about the database as a whole.
    pub key: Option<Vec<u8>>,
    /// The offset at which both sides were read (exclusive).
    pub offset: u64,
    /// The difference, as text.
    pub what: String,
}

impl fmt::Display for Difference {
    /// A line without control characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "database {}", self.database)?;
        if let Some(key) = &self.key {
            let (shown, rest) = key.split_at(key.len().min(SHOWN_BYTES));
            let dots = if rest.is_empty() { "" } else { "..." };
            write!(f, ", key \"{}{dots}\"", shown.escape_ascii())?;
        }
        write!(f, ", offset {}: {}", self.offset, self.what)
    }
}

/// What differs; `None` if nothing does. `time_ms` is the leader's clock when it read the key.
///
/// A key that has expired on the leader and is not deleted yet does not exist for the leader, but still does in the log. That is no
/// difference, as its deletion is still to come.
pub fn difference(leader: &Found, log: &Found, time_ms: u64) -> Option<String> {
    match (leader, log) {
        (Found::Nothing, Found::Nothing) | (Found::OtherType, Found::OtherType) => None,
        (Found::Nothing, Found::Key(facts)) if facts.expires_at_ms.is_some_and(|at_ms| at_ms <= time_ms) => None,
        (Found::Nothing, _) => Some("missing on the leader".to_owned()),
        (_, Found::Nothing) => Some("missing in the log".to_owned()),
        (Found::OtherType, Found::Key(_)) | (Found::Key(_), Found::OtherType) => Some("the type differs".to_owned()),
        (Found::Key(leader), Found::Key(log)) => of_facts(leader, log),
    }
}

fn of_facts(leader: &Facts, log: &Facts) -> Option<String> {
    if leader.kind != log.kind {
        return Some(format!("it is a {} on the leader and a {} in the log", leader.kind.word(), log.kind.word()));
    }
    let mut parts = Vec::new();
    if leader.length != log.length {
        parts.push(format!("its length is {} on the leader and {} in the log", leader.length, log.length));
    } else if leader.value != log.value {
        parts.push("its value differs".to_owned());
    }
    if leader.expires_at_ms != log.expires_at_ms {
        let when = |at_ms: Option<u64>| at_ms.map_or_else(|| "never".to_owned(), |at_ms| format!("at {at_ms}"));
        let (leader, log) = (when(leader.expires_at_ms), when(log.expires_at_ms));
        parts.push(format!("its TTL differs: it expires {leader} on the leader and {log} in the log"));
    }
    if leader.fields != log.fields {
        parts.push("the TTL of a field differs".to_owned());
    }
    if leader.groups != log.groups {
        parts.push("its consumer groups, or what is pending in them, differ".to_owned());
    }
    if leader.consumers != log.consumers {
        parts.push("its consumers, or what is pending for them, differ".to_owned());
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The databases whose numbers of keys differ.
pub fn different_counts(leader: &[(u32, u64)], log: &[(u32, u64)], offset: u64) -> Vec<Difference> {
    let of = |counts: &[(u32, u64)], database: u32| {
        counts.iter().find(|(number, _)| *number == database).map_or(0, |(_, keys)| *keys)
    };
    let mut databases: Vec<_> = leader.iter().chain(log).map(|(database, _)| *database).collect();
    databases.sort_unstable();
    databases.dedup();
    let different = |database| {
        let (on_leader, in_log) = (of(leader, database), of(log, database));
        let what = format!("there are {on_leader} keys on the leader and {in_log} in the log");
        (on_leader != in_log).then_some(Difference { database, key: None, offset, what })
    };
    databases.into_iter().filter_map(different).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use durability_protocol::audit::Kind;

    fn facts() -> Facts {
        let value = Some([1; 16]);
        Facts {
            kind: Kind::Stream,
            length: 1,
            expires_at_ms: Some(10),
            value,
            fields: value,
            groups: value,
            consumers: value,
        }
    }

    fn key(change: impl FnOnce(&mut Facts)) -> Found {
        let mut facts = facts();
        change(&mut facts);
        Found::Key(facts)
    }

    #[test]
    fn each_kind_of_difference_has_its_words() {
        let one = key(|_| {});
        let differ = |other: Found| difference(&one, &other, 0).unwrap_or_default();
        assert_eq!(differ(one.clone()), "");
        assert_eq!(differ(Found::Nothing), "missing in the log");
        assert_eq!(difference(&Found::Nothing, &one, 9).as_deref(), Some("missing on the leader"));
        assert_eq!(differ(Found::OtherType), "the type differs");
        assert_eq!(differ(key(|facts| facts.kind = Kind::Hash)), "it is a stream on the leader and a hash in the log");
        assert!(differ(key(|facts| facts.length = 2)).contains("length is 1 on the leader and 2"));
        assert!(differ(key(|facts| facts.value = None)).contains("value"));
        assert!(differ(key(|facts| facts.expires_at_ms = None)).contains("at 10 on the leader and never in the log"));
        assert!(differ(key(|facts| facts.fields = None)).contains("TTL of a field"));
        assert!(differ(key(|facts| facts.groups = None)).contains("groups"));
        assert!(differ(key(|facts| facts.consumers = None)).contains("consumers"));
    }

    #[test]
    fn a_key_that_has_expired_on_the_leader_may_still_be_in_the_log() {
        assert_eq!(difference(&Found::Nothing, &key(|_| {}), 10), None);
        assert!(difference(&Found::Nothing, &key(|_| {}), 9).is_some());
        assert!(difference(&key(|_| {}), &Found::Nothing, 10).is_some(), "but not the other way round");
    }

    #[test]
    fn a_name_is_shown_in_one_line() {
        let key = Some(b"a\r\n\x1b\"\xff".to_vec());
        let line = Difference { database: 3, key, offset: 7, what: "missing".to_owned() }.to_string();
        assert_eq!(line, r#"database 3, key "a\r\n\x1b\"\xff", offset 7: missing"#);
        let long = Difference { database: 0, key: Some(vec![b'x'; 1000]), offset: 0, what: String::new() };
        assert!(long.to_string().len() < 200);
    }

    #[test]
    fn databases_are_compared_by_number() {
        let found = different_counts(&[(0, 5), (3, 1)], &[(0, 5), (9, 2)], 77);
        assert_eq!(found.iter().map(|difference| difference.database).collect::<Vec<_>>(), [3, 9]);
        assert!(different_counts(&[(0, 5)], &[(0, 5)], 77).is_empty());
    }
}
