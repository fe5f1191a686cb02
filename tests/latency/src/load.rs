//! What the timed loads have in common: the keys, and the latencies.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::client::Client;
use crate::resp::{self, Reply};
use crate::Result;

/// Keys of a load.
pub const KEYS: u64 = 100_000;
/// Length of a value.
pub const VALUE_BYTES: usize = 100;
/// An open load is sent in bundles, one for each tick.
pub const TICK: Duration = Duration::from_micros(100);
/// Longer times count as this.
const LONGEST: Duration = Duration::from_secs(60);

/// A request's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads a key.
    Get,
    /// Writes a key.
    Set,
}

impl Kind {
    /// Whether that is what such a request on a key that exists is answered with.
    pub fn is_answered_by(self, reply: Reply<'_>) -> bool {
        match (self, reply) {
            (Kind::Get, Reply::Bulk(value)) => value.len() == VALUE_BYTES,
            (Kind::Set, Reply::Status(status)) => status == b"OK",
            _ => false,
        }
    }
}

/// Writes every key once.
pub fn fill(client: &mut Client) -> Result<()> {
    let value = [b'x'; VALUE_BYTES];
    client.run_all(KEYS as usize, |key, to| resp::encode(to, &[b"SET", &key_name(key as u64), &value]))
}

/// The name of a key.
pub fn key_name(key: u64) -> Vec<u8> {
    format!("key:{key:06}").into_bytes()
}

/// Times in nanoseconds.
#[derive(Debug, Clone)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        let longest = LONGEST.as_nanos() as u64;
        Times(Histogram::new_with_bounds(1, longest, 3).expect("three digits are possible"))
    }
}

impl Times {
    /// Adds one.
    #[inline]
    pub fn record(&mut self, time: Duration) {
        self.0.saturating_record(time.as_nanos() as u64);
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Times) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// In milliseconds: so many per cent are at most as long. Not a number if there are none.
    pub fn percentile(&self, percent: f64) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        self.0.value_at_percentile(percent) as f64 / 1e6
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// For a remark.
    pub fn summary(&self) -> String {
        let at = |percent| self.percentile(percent);
        format!("p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3} ms", at(50.0), at(90.0), at(99.0), at(99.9))
    }
}

/// The latencies of a load, by kind.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    /// Of reads.
    pub get: Times,
    /// Of writes.
    pub set: Times,
}

impl Latencies {
    /// Those of that kind.
    #[inline]
    pub fn of(&mut self, kind: Kind) -> &mut Times {
        match kind {
            Kind::Get => &mut self.get,
            Kind::Set => &mut self.set,
        }
    }

    /// Of reads and writes together.
    pub fn all(&self) -> Times {
        let mut all = self.get.clone();
        all.add(&self.set);
        all
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Latencies) {
        self.get.add(&other.get);
        self.set.add(&other.set);
    }
}
