//! What is asked: GETs and SETs of keys.

use std::io::Write;

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// GET.
    Read,
    /// SET.
    Write,
}

/// Requests, one after the other.
pub struct Requests {
    /// `$length\r\n` and what keys begin with.
    prefix: String,
    keys: u64,
    order: Order,
    /// `$length\r\nvalue\r\n`.
    value: Vec<u8>,
}

enum Order {
    Random { chance: fastrand::Rng, reads_percent: u8 },
    Each { next: u64 },
}

impl Requests {
    /// Of keys at random; so many of a hundred are reads.
    pub fn random(prefix: &str, keys: u64, value_bytes: usize, reads_percent: u8, seed: u64) -> Self {
        let order = Order::Random { chance: fastrand::Rng::with_seed(seed), reads_percent };
        Requests { prefix: head_of(prefix), keys, order, value: value(value_bytes) }
    }

    /// A write of each key.
    pub fn each_key(prefix: &str, keys: u64, value_bytes: usize) -> Self {
        Requests { prefix: head_of(prefix), keys, order: Order::Each { next: 0 }, value: value(value_bytes) }
    }

    /// Whether they end by themselves.
    pub fn are_finite(&self) -> bool {
        matches!(self.order, Order::Each { .. })
    }

    /// Adds the next request to `to`; none if there is none.
    pub fn add(&mut self, to: &mut Vec<u8>) -> Option<Kind> {
        let (key, kind) = match &mut self.order {
            Order::Random { chance, reads_percent } => {
                let kind = if chance.u8(0..100) < *reads_percent { Kind::Read } else { Kind::Write };
                (chance.u64(0..self.keys), kind)
            }
            Order::Each { next } if *next == self.keys => return None,
            Order::Each { next } => {
                *next += 1;
                (*next - 1, Kind::Write)
            }
        };
        let head: &[u8] = match kind {
            Kind::Read => b"*2\r\n$3\r\nGET\r\n",
            Kind::Write => b"*3\r\n$3\r\nSET\r\n",
        };
        to.extend_from_slice(head);
        // Writing to a vector does not fail.
        let _ = write!(to, "{}{key:012}\r\n", self.prefix);
        if kind == Kind::Write {
            to.extend_from_slice(&self.value);
        }
        Some(kind)
    }
}

fn head_of(prefix: &str) -> String {
    format!("${}\r\n{prefix}", prefix.len() + 12)
}

fn value(bytes: usize) -> Vec<u8> {
    let mut value = format!("${bytes}\r\n").into_bytes();
    value.resize(value.len() + bytes, b'x');
    value.extend_from_slice(b"\r\n");
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_whole_and_of_both_kinds_in_their_share() {
        let mut requests = Requests::random("key:", 10, 3, 80, 7);
        let mut reads = 0;
        for _ in 0..10_000 {
            let mut bytes = Vec::new();
            let kind = requests.add(&mut bytes).expect("always one");
            reads += u32::from(kind == Kind::Read);
            let text = String::from_utf8(bytes).expect("text");
            let words = text.split("\r\n").count();
            assert_eq!(words, if kind == Kind::Read { 6 } else { 8 }, "{text:?}");
            assert!(kind == Kind::Read || text.ends_with("\r\n$3\r\nxxx\r\n"), "{text:?}");
        }
        assert!((7800..8200).contains(&reads), "{reads}");
    }

    #[test]
    fn each_key_is_written_once() {
        let mut requests = Requests::each_key("key:", 2, 1);
        let mut bytes = Vec::new();
        assert_eq!(requests.add(&mut bytes), Some(Kind::Write));
        assert_eq!(requests.add(&mut bytes), Some(Kind::Write));
        assert_eq!(requests.add(&mut bytes), None);
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.contains("$16\r\nkey:000000000000\r\n") && text.contains("key:000000000001"), "{text:?}");
    }
}
