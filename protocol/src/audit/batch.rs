//! What a leader sends about its keys.

use serde::{Deserialize, Serialize};

use super::{Found, MAX_AUDIT_KEYS, MAX_BATCH_SAMPLES, MAX_KEY_BYTES};

/// An audit that the service requests, as in the field `audit` of `LOG.NODE`: `id keys`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditOrder {
    /// Its number; greater for later audits.
    pub id: u64,
    /// How many keys the leader picks, of all databases.
    pub keys: u64,
}

impl std::fmt::Display for AuditOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.id, self.keys)
    }
}

impl AuditOrder {
    /// Reads the field; `None` if it is empty or malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, keys) = text.split_once(' ')?;
        let (id, keys) = (id.parse().ok()?, keys.parse().ok()?);
        (keys <= MAX_AUDIT_KEYS).then_some(AuditOrder { id, keys })
    }
}

/// A key of the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The database's number.
    pub database: u32,
    /// The key's name.
    pub key: Vec<u8>,
    /// What is there.
    pub found: Found,
}

/// Keys of the leader, all as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Batch {
    /// The end of the replication stream at that moment (exclusive).
    pub offset: u64,
    /// The leader's clock after it had read the keys, in milliseconds since 1970.
    pub time_ms: u64,
    /// How long that took on its main thread, in microseconds.
    pub took_us: u64,
    /// The number of keys of each database that has any; `None` if they were not counted.
    pub databases: Option<Vec<(u32, u64)>>,
    /// The keys, at most [`MAX_BATCH_SAMPLES`].
    pub samples: Vec<Sample>,
    /// The leader has read all that it was asked for.
    pub is_last: bool,
    /// Why it gives up; `None` if it does not.
    pub failure: Option<String>,
}

impl Batch {
    /// The bytes that are sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Fails only if memory runs out, which ends the process.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Reads bytes that were sent.
    ///
    /// # Errors
    /// They are malformed, or have too many samples or too long a name.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let batch: Batch =
            postcard::from_bytes(bytes).map_err(|error| format!("this is no batch of samples: {error}"))?;
        if batch.samples.len() > MAX_BATCH_SAMPLES {
            return Err(format!("a batch has at most {MAX_BATCH_SAMPLES} samples"));
        }
        if batch.samples.iter().any(|sample| sample.key.len() > MAX_KEY_BYTES) {
            return Err(format!("a key that is sampled has a name of at most {MAX_KEY_BYTES} bytes"));
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Facts, Kind};

    fn batch(samples: usize) -> Batch {
        let facts = Facts {
            kind: Kind::Hash,
            length: 2,
            expires_at_ms: Some(5),
            value: Some([1; 16]),
            fields: Some([2; 16]),
            groups: None,
            consumers: None,
        };
        let sample = Sample { database: 3, key: b"k\0\xff".to_vec(), found: Found::Key(facts) };
        Batch { offset: 77, databases: Some(vec![(0, 1)]), samples: vec![sample; samples], ..Batch::default() }
    }

    #[test]
    fn a_batch_survives_the_wire_and_has_its_bounds() {
        let sent = batch(MAX_BATCH_SAMPLES);
        assert_eq!(Batch::from_bytes(&sent.to_bytes()), Ok(sent));
        assert!(Batch::from_bytes(&batch(MAX_BATCH_SAMPLES + 1).to_bytes()).is_err());
        let long = Sample { database: 0, key: vec![0; MAX_KEY_BYTES + 1], found: Found::Nothing };
        assert!(Batch::from_bytes(&Batch { samples: vec![long], ..batch(0) }.to_bytes()).is_err());
        assert!(Batch::from_bytes(b"").is_err());
    }

    #[test]
    fn any_bytes_are_a_batch_within_its_bounds_or_an_error() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            if let Ok(batch) = Batch::from_bytes(bytes) {
                assert!(batch.samples.len() <= MAX_BATCH_SAMPLES);
                assert_eq!(Batch::from_bytes(&batch.to_bytes()), Ok(batch));
            }
        });
    }

    #[test]
    fn an_order_survives_its_text() {
        let order = AuditOrder { id: 1_700_000_000_000, keys: MAX_AUDIT_KEYS };
        assert_eq!(AuditOrder::parse(&order.to_string()), Some(order));
        for bad in ["", "1", "1 x", "1 2 3", "1 100001"] {
            assert_eq!(AuditOrder::parse(bad), None, "{bad:?}");
        }
    }
}
