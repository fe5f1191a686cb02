//! What services ask each other about files, and what they answer. A request is JSON. An answer begins with a byte: 0 before a part of a file, 1
//! before JSON.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::store::SnapshotRecord;

const PART: u8 = 0;
const TEXT: u8 = 1;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Bytes of a file that is stored.
    Read {
        /// Its name.
        file: String,
        /// The first byte (inclusive).
        from: u64,
        /// The most bytes.
        bytes: u64,
    },
    /// That a file of the asking service is stored.
    Hold(Box<SnapshotRecord>),
    /// That a snapshot is made and stored.
    Make {
        /// Of which shard.
        shard: String,
        /// It has to hold the log up to there (exclusive).
        least_end: u64,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The bytes.
    #[serde(skip)]
    Part(Bytes),
    /// It is stored.
    Held,
    /// It is being done: ask again. So many bytes of it are there.
    Underway(u64),
    /// It is made.
    Made {
        /// What is to be recorded.
        record: Box<SnapshotRecord>,
        /// Generation of the log that it was made of.
        generation: u64,
    },
    /// It is not done.
    Refused {
        /// Why.
        reason: String,
        /// Whether it would be the same at any service.
        is_final: bool,
    },
}

impl Reply {
    /// It is not done here.
    pub fn refused(reason: impl Into<String>) -> Self {
        Reply::Refused { reason: reason.into(), is_final: false }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Reply::Part(bytes) => [&[PART], &bytes[..]].concat(),
            // What cannot be written is none that the other one can read.
            reply => [vec![TEXT], serde_json::to_vec(reply).unwrap_or_default()].concat(),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: Vec<u8>) -> Result<Self, String> {
        let mut bytes = Bytes::from(bytes);
        match bytes.first() {
            Some(&PART) => Ok(Reply::Part(bytes.split_off(1))),
            Some(&TEXT) => serde_json::from_slice(&bytes[1..]).map_err(|error| error.to_string()),
            Some(_) => Err("it is of no known kind".to_owned()),
            None => Err("the answer is empty".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let part = Bytes::from_static(b"\x00\x01REDIS");
        for reply in
            [Reply::Part(part), Reply::Part(Bytes::new()), Reply::Held, Reply::Underway(7), Reply::refused("no")]
        {
            assert_eq!(Reply::decode(reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            allocation::within(16 * bytes.len() + 4096, || {
                let _ = Reply::decode(bytes.clone());
                let _ = serde_json::from_slice::<Request>(bytes);
            });
        });
    }
}
