//! Requests that are encoded before the clock runs.

use std::ops::Range;

use crate::load::{key_name, Kind, KEYS, VALUE_BYTES};
use crate::resp;

/// So many requests, again and again.
const REQUESTS: usize = 200_000;
/// One request in so many writes.
const ONE_WRITES: u64 = 5;

/// An endless sequence of random requests: four fifths read, one fifth writes.
pub struct Plan {
    bytes: Vec<u8>,
    /// Where each request begins, and where the last ends.
    bounds: Vec<usize>,
    kinds: Vec<Kind>,
}

impl Plan {
    /// The same for the same `seed`.
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed | 1);
        let value = [b'x'; VALUE_BYTES];
        let mut plan = Plan { bytes: Vec::new(), bounds: vec![0], kinds: Vec::new() };
        for _ in 0..REQUESTS {
            let key = key_name(random.below(KEYS));
            let kind = if random.below(ONE_WRITES) == 0 { Kind::Set } else { Kind::Get };
            match kind {
                Kind::Get => resp::encode(&mut plan.bytes, &[b"GET", &key]),
                Kind::Set => resp::encode(&mut plan.bytes, &[b"SET", &key, &value]),
            }
            plan.bounds.push(plan.bytes.len());
            plan.kinds.push(kind);
        }
        plan
    }

    /// The kind of the request of that number.
    #[inline]
    pub fn kind(&self, number: usize) -> Kind {
        self.kinds[number % REQUESTS]
    }

    /// The bytes of the first requests of `numbers`, and how many these are: all, but where the plan begins anew.
    pub fn requests(&self, numbers: Range<usize>) -> (&[u8], usize) {
        let first = numbers.start % REQUESTS;
        let last = (first + numbers.len()).min(REQUESTS);
        (&self.bytes[self.bounds[first]..self.bounds[last]], last - first)
    }
}

/// Marsaglia's xorshift: good enough to choose keys.
pub struct Random(pub u64);

impl Random {
    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_its_share_of_writes_and_begins_anew_at_its_end() {
        let plan = Plan::new(7);
        let writes = plan.kinds.iter().filter(|kind| **kind == Kind::Set).count();
        assert!(writes.abs_diff(REQUESTS / 5) < REQUESTS / 100, "{writes} writes");
        let (bytes, count) = plan.requests(REQUESTS - 1..REQUESTS + 3);
        assert_eq!(count, 1);
        assert!(bytes.starts_with(b"*"));
        assert_eq!(plan.requests(REQUESTS..REQUESTS + 3).0, plan.requests(0..3).0);
    }
}
