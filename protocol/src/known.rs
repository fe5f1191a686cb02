//! What a node knows of the log that it led or followed, by which it recognises that log.

use std::fmt;
use std::str::FromStr;

use crate::{is_valid_name, is_valid_replid};

/// Stands for a node that knows no log.
const NOTHING: &str = "-";

/// What a node knows of its log: its id is `log`, and when the leader of `epoch` was the last that had begun to write, under `replid`,
/// everything below `durable` was durable. As text `log:epoch:replid:durable`.
///
/// Once this is true for a log it stays true, as a log never goes back, unless its leader has begun it anew with an uploaded data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The log's id.
    pub log: String,
    /// That epoch; 0 if it is unknown.
    pub epoch: u64,
    /// The replication id of the stream up to `durable`; empty if it is unknown.
    pub replid: String,
    /// Exclusive end of what was durable.
    pub durable: u64,
}

/// The text is no [`Known`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotKnown;

impl fmt::Display for NotKnown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not what a node knows of a log: log-id:epoch:replid:durable, or -")
    }
}

impl std::error::Error for NotKnown {}

impl Known {
    /// The log of that id, of which nothing else is known.
    pub fn new(log: impl Into<String>) -> Self {
        Known { log: log.into(), epoch: 0, replid: String::new(), durable: 0 }
    }

    /// Reads the text of what a node knows; `None` for the text of a node that knows nothing.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Option<Self>, NotKnown> {
        if text == NOTHING {
            return Ok(None);
        }
        text.parse().map(Some)
    }

    /// The text of what a node knows, if it knows anything.
    pub fn text(known: Option<&Known>) -> String {
        known.map_or_else(|| NOTHING.to_owned(), Known::to_string)
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Known { log, epoch, replid, durable } = self;
        write!(f, "{log}:{epoch}:{replid}:{durable}")
    }
}

impl FromStr for Known {
    type Err = NotKnown;

    fn from_str(text: &str) -> Result<Self, NotKnown> {
        let mut fields = text.split(':');
        let mut next = || fields.next().ok_or(NotKnown);
        let (log, epoch, replid, durable) = (next()?, next()?, next()?, next()?);
        let number = |text: &str| text.parse::<u64>().map_err(|_| NotKnown);
        let known =
            Known { log: log.to_owned(), epoch: number(epoch)?, replid: replid.to_owned(), durable: number(durable)? };
        let is_valid = is_valid_name(log) && (replid.is_empty() || is_valid_replid(replid));
        if is_valid && fields.next().is_none() {
            Ok(known)
        } else {
            Err(NotKnown)
        }
    }
}

/// The user name of a server that follows a log by `PSYNC`, with which it is never given another log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaUser<'a> {
    /// The shard.
    pub shard: &'a str,
    /// What the server knows of its log; `None` from a server without this module.
    pub known: Option<Known>,
    /// Whether everything that the server holds came from that log, so that it is durable up to the requested offset.
    pub is_whole: bool,
}

/// The user name of a server that knows `known`; see [`ReplicaUser`].
pub fn replica_user(shard: &str, known: &Known, is_whole: bool) -> String {
    format!("{shard}/{known}{}", if is_whole { "/whole" } else { "" })
}

impl<'a> ReplicaUser<'a> {
    /// Reads a user name. No shard's name has a slash.
    ///
    /// # Errors
    /// What follows the shard's name is not what [`replica_user`] makes.
    pub fn parse(user: &'a str) -> Result<Self, NotKnown> {
        let Some((shard, rest)) = user.split_once('/') else {
            return Ok(ReplicaUser { shard: user, known: None, is_whole: false });
        };
        let (known, is_whole) = match rest.split_once('/') {
            None => (rest, false),
            Some((known, "whole")) => (known, true),
            Some(_) => return Err(NotKnown),
        };
        Ok(ReplicaUser { shard, known: Some(known.parse()?), is_whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known { log: "abc".to_owned(), epoch: 7, replid: "a".repeat(40), durable: 123 }
    }

    #[test]
    fn what_a_node_knows_survives_the_wire() {
        for known in [known(), Known::new("abc")] {
            assert_eq!(Known::parse(&known.to_string()), Ok(Some(known.clone())));
            for is_whole in [false, true] {
                let user = replica_user("s1", &known, is_whole);
                let read = ReplicaUser { shard: "s1", known: Some(known.clone()), is_whole };
                assert_eq!(ReplicaUser::parse(&user), Ok(read));
            }
        }
        assert_eq!(Known::parse(&Known::text(None)), Ok(None));
        assert_eq!(ReplicaUser::parse("s1").map(|user| (user.shard, user.known)), Ok(("s1", None)));
    }

    #[test]
    fn any_text_is_what_survives_its_own_text_or_nothing() {
        bolero::check!().with_type::<(String, Option<u64>, Option<u64>, bool)>().for_each(
            |(any, epoch, durable, is_whole)| {
                // Some inputs have sound parts, as otherwise all would be refused for the first.
                let part = |number: &Option<u64>| number.map_or_else(|| any.clone(), |number| number.to_string());
                let end = if *is_whole { "/whole" } else { "" };
                let user = format!("s1/abc:{}:{}:{}{end}", part(epoch), "a".repeat(40), part(durable));
                for user in [any, &user] {
                    if let Ok(ReplicaUser { shard, known: Some(known), is_whole }) = ReplicaUser::parse(user) {
                        let again = replica_user(shard, &known, is_whole);
                        assert_eq!(ReplicaUser::parse(&again), Ok(ReplicaUser { shard, known: Some(known), is_whole }));
                    }
                }
            },
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["", "a", "a:1", "a:1::", "a:1:zz:1", "a:x::1", "a:1::1:1", ":1::1", "a/b:1::1", "a:1::-1"] {
            assert_eq!(Known::parse(bad), Err(NotKnown), "{bad}");
        }
        for bad in ["s/", "s/a", "s/a:1::1/", "s/a:1::1/whole/", "s/a:1::1/other"] {
            assert_eq!(ReplicaUser::parse(bad), Err(NotKnown), "{bad}");
        }
    }
}
