//! What an entry of a group's log says, and how that is encoded in [`Entry::data`].
//!
//! All integers are little-endian. The first byte is the kind; an entry without data is the one with which a leader's term begins.
//!
//! | kind | fields |
//! |---|---|
//! | 1, bytes of the log | epoch (8), offset of the first byte (8), milliseconds since 1970 (8), the bytes |
//! | 2, state | revision (8), epoch (8), milliseconds since 1970 (8), 1 if the log restarts (1), where it restarts (8), the state |

use bytes::{BufMut, Bytes, BytesMut};
use raft::eraftpb::{Entry, EntryType};

const APPEND: u8 = 1;
const STATE: u8 = 2;
const APPEND_HEADER_BYTES: usize = 25;
const STATE_HEADER_BYTES: usize = 34;

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing: a leader's first entry.
    Nothing,
    /// Bytes of the log.
    Append(AppendEntry),
    /// What the group remembers besides them.
    State(StateEntry),
    /// Another set of members, in the encoding of the consensus crate.
    Members(Bytes),
}

/// Bytes of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendEntry {
    /// The epoch of the node that sent them.
    pub epoch: u64,
    /// Position in the log of the first of them.
    pub offset: u64,
    /// When the log's leader took them, in milliseconds since 1970. For people; nothing depends on it.
    pub time_ms: u64,
    /// The bytes, never empty.
    pub payload: Bytes,
}

/// The state of a group, replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateEntry {
    /// One more than the revision that it replaces; otherwise it is void.
    pub revision: u64,
    /// The epoch whose appends may follow.
    pub epoch: u64,
    /// When the log's leader took it, in milliseconds since 1970.
    pub time_ms: u64,
    /// If there, the log is empty afterwards, and begins and ends at this position.
    pub restart_at: Option<u64>,
    /// The state itself.
    pub bytes: Bytes,
}

/// An entry's data is not what any version of this code writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the entry of index {index} cannot be read: {reason}")]
pub struct BadEntry {
    /// Which entry.
    pub index: u64,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Content {
    /// What `entry` says. Copies nothing.
    pub fn decode(entry: &Entry) -> Result<Self, BadEntry> {
        let bad = |reason| BadEntry { index: entry.index, reason };
        if entry.get_entry_type() != EntryType::EntryNormal {
            return Ok(Content::Members(entry.data.clone()));
        }
        let data = &entry.data;
        match data.first() {
            None => Ok(Content::Nothing),
            Some(&APPEND) if data.len() > APPEND_HEADER_BYTES => Ok(Content::Append(AppendEntry {
                epoch: number_at(data, 1),
                offset: number_at(data, 9),
                time_ms: number_at(data, 17),
                payload: data.slice(APPEND_HEADER_BYTES..),
            })),
            Some(&STATE) if data.len() >= STATE_HEADER_BYTES => Ok(Content::State(StateEntry {
                revision: number_at(data, 1),
                epoch: number_at(data, 9),
                time_ms: number_at(data, 17),
                restart_at: match data[25] {
                    0 => None,
                    1 => Some(number_at(data, 26)),
                    _ => return Err(bad("it neither restarts the log nor does not")),
                },
                bytes: data.slice(STATE_HEADER_BYTES..),
            })),
            Some(&(APPEND | STATE)) => Err(bad("it is too short")),
            Some(_) => Err(bad("its kind is not known to this version: upgrade logservice")),
        }
    }
}

impl AppendEntry {
    /// The data of an entry that says this, with `parts` one after the other as the bytes.
    pub fn encode(epoch: u64, offset: u64, time_ms: u64, parts: &[Bytes]) -> Bytes {
        let mut data = BytesMut::with_capacity(APPEND_HEADER_BYTES + parts.iter().map(Bytes::len).sum::<usize>());
        data.put_u8(APPEND);
        data.put_u64_le(epoch);
        data.put_u64_le(offset);
        data.put_u64_le(time_ms);
        parts.iter().for_each(|part| data.put_slice(part));
        data.freeze()
    }

    /// Position after the last byte.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.payload.len() as u64)
    }
}

impl StateEntry {
    /// The data of an entry that says this.
    pub fn encode(&self) -> Bytes {
        let mut data = BytesMut::with_capacity(STATE_HEADER_BYTES + self.bytes.len());
        data.put_u8(STATE);
        data.put_u64_le(self.revision);
        data.put_u64_le(self.epoch);
        data.put_u64_le(self.time_ms);
        data.put_u8(u8::from(self.restart_at.is_some()));
        data.put_u64_le(self.restart_at.unwrap_or(0));
        data.put_slice(&self.bytes);
        data.freeze()
    }
}

/// The number at a place that the caller has found to be inside.
fn number_at(data: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&data[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(data: Bytes) -> Entry {
        Entry { index: 7, data, ..Entry::default() }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let parts = [Bytes::from_static(b"SET"), Bytes::from_static(b" a 1")];
        let payload = Bytes::from_static(b"SET a 1");
        let append = AppendEntry { epoch: 3, offset: 100, time_ms: 5, payload };
        assert_eq!(append.end(), 107);
        assert_eq!(Content::decode(&entry(AppendEntry::encode(3, 100, 5, &parts))), Ok(Content::Append(append)));
        for restart_at in [None, Some(0), Some(9)] {
            let state = StateEntry { revision: 4, epoch: 3, time_ms: 1, restart_at, bytes: Bytes::from_static(b"{}") };
            assert_eq!(Content::decode(&entry(state.encode())), Ok(Content::State(state)));
        }
        assert_eq!(Content::decode(&entry(Bytes::new())), Ok(Content::Nothing));
    }

    #[test]
    fn what_nobody_writes_is_refused() {
        let whole = AppendEntry::encode(3, 100, 5, &[Bytes::from_static(b"x")]);
        for bytes in 1..whole.len() {
            assert!(Content::decode(&entry(whole.slice(..bytes))).is_err(), "{bytes} bytes of it");
        }
        assert!(Content::decode(&entry(Bytes::from_static(&[9; 40]))).is_err());
    }
}
