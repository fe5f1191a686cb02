//! Requests of one service to another, and the answers: a number (8) that the answer repeats, and bytes, which this code does not look at.

use bytes::Bytes;

use super::fields::{Fields, Pieces};
use super::Malformed;

/// The longest request or answer.
pub const MOST_REQUEST_BYTES: usize = 1 << 20;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The answer has the same.
    pub number: u64,
    /// What is asked.
    pub bytes: Bytes,
}

/// An answer. It has the same form.
pub type Reply = Request;

impl Request {
    /// Its bytes.
    pub fn encode(&self) -> Pieces {
        let mut to = Pieces::default();
        to.put_u64(self.number);
        to.put_payload(&self.bytes);
        to
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(mut from: Fields) -> Result<Self, Malformed> {
        let (number, bytes) = (from.u64()?, from.payload()?);
        from.end()?;
        if bytes.len() > MOST_REQUEST_BYTES {
            return Err(Malformed("a request is too long"));
        }
        Ok(Request { number, bytes })
    }
}
