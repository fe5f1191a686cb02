//! Pub/sub of one connection. One channel has messages: `+switch-master`, when clients of a shard have to go to another address.
//!
//! All connections listen to one bounded queue of these changes, and each takes from it what it has room for. So a message costs the shard
//! the same however many subscribers there are. A subscriber that reads too slowly misses a message and is disconnected: a client that
//! connects again asks for the address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use durability_protocol::Refusal;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::Receiver;

use super::address::Address;
use crate::resp::reply::{bulk, failure, integer, Reply};
use crate::service::Service;
use crate::shard::Switch;

/// Channels and patterns of one connection.
const MAX_SUBSCRIPTIONS: usize = 32;
/// Longest name of a channel or pattern in bytes.
const MAX_CHANNEL_BYTES: usize = 128;

/// The channel that has messages. Valkey 9.1 has no other name for it.
const SWITCH: &str = "+switch-master";

/// The channels and patterns to which a connection has subscribed.
#[derive(Default)]
pub struct Subscriptions {
    channels: BTreeSet<Bytes>,
    /// Patterns, and whether each matches [`SWITCH`].
    patterns: BTreeMap<Bytes, bool>,
    /// `None` without subscriptions.
    switches: Option<Receiver<Arc<Switch>>>,
}

/// The client was too slow and has missed a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Missed;

impl Subscriptions {
    /// Whether there are no subscriptions.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty()
    }

    fn count(&self) -> u64 {
        (self.channels.len() + self.patterns.len()) as u64
    }

    /// `SUBSCRIBE`, `PSUBSCRIBE`, `UNSUBSCRIBE` or `PUNSUBSCRIBE`: one reply for each channel.
    pub fn command(&mut self, service: &Service, arguments: &[Bytes]) -> Result<Reply, Refusal> {
        let (name, channels) = arguments.split_first().ok_or_else(|| failure("empty command"))?;
        let (subscribes, is_pattern) = match name.to_ascii_lowercase().as_slice() {
            b"subscribe" => (true, false),
            b"psubscribe" => (true, true),
            b"punsubscribe" => (false, true),
            _ => (false, false),
        };
        let replies = if subscribes {
            self.subscribe(service, channels, is_pattern)
        } else {
            Ok(self.unsubscribe(channels, is_pattern))
        };
        replies.map(Reply::Each)
    }

    fn subscribe(&mut self, service: &Service, channels: &[Bytes], is_pattern: bool) -> Result<Vec<Reply>, Refusal> {
        let kind = if is_pattern { "psubscribe" } else { "subscribe" };
        if channels.is_empty() {
            return Err(failure(format!("wrong number of arguments for '{kind}' command")));
        }
        if channels.iter().any(|channel| channel.len() > MAX_CHANNEL_BYTES) {
            return Err(failure(format!("a channel has at most {MAX_CHANNEL_BYTES} bytes")));
        }
        let is_new = |channel: &&Bytes| match is_pattern {
            true => !self.patterns.contains_key(*channel),
            false => !self.channels.contains(*channel),
        };
        let new: BTreeSet<_> = channels.iter().filter(is_new).collect();
        if new.len() + self.count() as usize > MAX_SUBSCRIPTIONS {
            return Err(failure(format!(
                "one connection subscribes to at most {MAX_SUBSCRIPTIONS} channels and patterns"
            )));
        }
        self.switches.get_or_insert_with(|| service.switches());
        let subscribe = |channel: &Bytes| {
            // Copied, as it would keep a whole buffer otherwise.
            let channel = Bytes::copy_from_slice(channel);
            if is_pattern {
                let matches = matches(&channel, SWITCH.as_bytes());
                self.patterns.insert(channel.clone(), matches);
            } else {
                self.channels.insert(channel.clone());
            }
            Reply::Push(vec![bulk(kind), Reply::Bulk(channel), integer(self.count())])
        };
        Ok(channels.iter().map(subscribe).collect())
    }

    /// Unsubscribes from the named channels or patterns, or from all if none is named.
    fn unsubscribe(&mut self, channels: &[Bytes], is_pattern: bool) -> Vec<Reply> {
        let kind = if is_pattern { "punsubscribe" } else { "unsubscribe" };
        let all: Vec<Bytes> = match is_pattern {
            _ if !channels.is_empty() => channels.iter().map(|channel| Bytes::copy_from_slice(channel)).collect(),
            true => self.patterns.keys().cloned().collect(),
            false => self.channels.iter().cloned().collect(),
        };
        let mut replies = Vec::with_capacity(all.len().max(1));
        for channel in all {
            if is_pattern {
                self.patterns.remove(&channel);
            } else {
                self.channels.remove(&channel);
            }
            replies.push(Reply::Push(vec![bulk(kind), Reply::Bulk(channel), integer(self.count())]));
        }
        if replies.is_empty() {
            replies.push(Reply::Push(vec![bulk(kind), Reply::Null, integer(self.count())]));
        }
        if self.is_empty() {
            self.switches = None;
        }
        replies
    }

    /// Waits for the next change of a primary's address; for ever without subscriptions. Cancel-safe.
    pub async fn next(&mut self) -> Result<Arc<Switch>, Missed> {
        match &mut self.switches {
            Some(switches) => match switches.recv().await {
                Ok(switch) => Ok(switch),
                Err(RecvError::Lagged(_)) => Err(Missed),
                // The service ends.
                Err(RecvError::Closed) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// The messages about a change: one for the channel, and one for each pattern that matches it.
    pub fn messages(&self, switch: &Switch) -> Vec<Reply> {
        let Switch { shard, from, to } = switch;
        let (Some(from), Some(to)) = (Address::parse(from), Address::parse(to)) else { return Vec::new() };
        let payload = format!("{shard} {} {} {} {}", from.host, from.port, to.host, to.port);
        let channel = self.channels.contains(SWITCH.as_bytes());
        let message = channel.then(|| Reply::Push(vec![bulk("message"), bulk(SWITCH), bulk(payload.as_str())]));
        let patterns = self.patterns.iter().filter(|(_, matches)| **matches).map(|(pattern, _)| pattern.clone());
        let to_pattern =
            |pattern| Reply::Push(vec![bulk("pmessage"), Reply::Bulk(pattern), bulk(SWITCH), bulk(payload.as_str())]);
        message.into_iter().chain(patterns.map(to_pattern)).collect()
    }
}

/// Whether a pattern of `PSUBSCRIBE` matches: `*` stands for any bytes, `?` for one byte, `[a-c]` and `[^a-c]` for one of these bytes or one
/// of the others, and `\` takes the next byte literally. Takes time proportional to the product of both lengths at most.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut rest, mut left) = (pattern, text);
    // Where to resume if what follows the last star does not match: with one more byte for the star.
    let mut after_star: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', following @ ..] = rest {
            rest = following;
            after_star = Some((following, left));
        } else if rest.is_empty() && left.is_empty() {
            return true;
        } else if let Some(following) = left.first().and_then(|byte| match_one(rest, *byte)) {
            rest = following;
            left = &left[1..];
        } else {
            match after_star {
                Some((following, [_, fewer @ ..])) => {
                    (rest, left) = (following, fewer);
                    after_star = Some((following, fewer));
                }
                _ => return false,
            }
        }
    }
}

/// The rest of a pattern whose first element matches `byte`; `None` if it does not match.
fn match_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => match_set(rest, byte),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte).then_some(rest),
        [] => None,
    }
}

/// The same for a set, without its opening bracket. A set that is not closed ends with the pattern, as in Valkey.
fn match_set(set: &[u8], byte: u8) -> Option<&[u8]> {
    let (is_negated, mut set) = match set {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, set),
    };
    let mut is_in = false;
    loop {
        set = match set {
            [] => break,
            [b']', rest @ ..] => {
                set = rest;
                break;
            }
            [b'\\', literal, rest @ ..] => {
                is_in |= *literal == byte;
                rest
            }
            [from, b'-', to, rest @ ..] => {
                is_in |= (*from.min(to)..=*from.max(to)).contains(&byte);
                rest
            }
            [literal, rest @ ..] => {
                is_in |= *literal == byte;
                rest
            }
        };
    }
    (is_in != is_negated).then_some(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Switches;

    #[test]
    fn patterns_match_as_in_valkey() {
        for pattern in [
            "*",
            "**",
            "+switch-master",
            "+*",
            "*master",
            "?switch*r",
            "[-+]switch*",
            "[*-,]*",
            "[^-]s*",
            "\\+switch-*",
            "+[s",
        ] {
            let text: &[u8] = if pattern == "+[s" { b"+s" } else { SWITCH.as_bytes() };
            assert!(matches(pattern.as_bytes(), text), "{pattern}");
        }
        for pattern in ["", "+switch", "switch-master", "-*", "[^+]*", "+switch-master?", "*slave", "\\*", "[", "*+x"] {
            assert!(!matches(pattern.as_bytes(), SWITCH.as_bytes()), "{pattern}");
        }
    }

    #[tokio::test]
    async fn a_subscriber_that_is_too_far_behind_learns_that_it_missed_something() {
        let switches = Switches::new(2);
        let address = |number: u64| format!("b:{number}");
        let switch = |number| Switch { shard: "s1".into(), from: address(number - 1), to: address(number) };
        let mut subscriptions = Subscriptions { switches: Some(switches.subscribe()), ..Subscriptions::default() };
        let note = |number| drop(switches.note("s1", "log", number, &address(number)));
        [0, 1, 2].into_iter().for_each(note);
        assert_eq!(subscriptions.next().await, Ok(Arc::new(switch(1))));
        [3, 4].into_iter().for_each(note);
        assert_eq!(subscriptions.next().await, Err(Missed));
    }

    #[test]
    fn any_pattern_is_matched_within_bounds() {
        assert!(!matches(&b"*a".repeat(64), &[b'a'; 63]));
        assert!(matches(&b"*a".repeat(64), &[b'a'; 64]));
        bolero::check!().with_type::<(Vec<u8>, Vec<u8>)>().for_each(|(pattern, text)| {
            matches(pattern, text);
            // Each byte as it is.
            let escaped: Vec<u8> = text.iter().flat_map(|byte| [b'\\', *byte]).collect();
            assert!(matches(&escaped, text));
        });
    }
}
