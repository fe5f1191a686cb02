//! A message of the consensus crate.
//!
//! | field | bytes |
//! |---|---|
//! | type | 1 |
//! | which of the following are there: a bit for each number, in the order of `NUMBERS`, then for the others | 2 |
//! | the numbers that are not 0 | 8 each |
//! | context: length, bytes | 4, … |
//! | entries: count, then for each: type, term, index, length of the data, data, length of the context, context | 4, then 1, 8, 8, 4, …, 4, … |
//! | snapshot: index, term, 1 if a joint change ends by itself, four lists of members (count, members), length of the data, data | 8, 8, 1, 4 × (4, 8 each), 4, … |
//!
//! The deprecated `sync_log` of an entry is not sent: nothing reads it.

use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

use super::fields::{Fields, Pieces};
use super::Malformed;

/// The types that travel, at the place of their number. The others are what a service tells its own groups.
const TYPES: [MessageType; 14] = [
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];
const ENTRY_TYPES: [EntryType; 3] = [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2];

const NUMBERS: usize = 11;
const CONTEXT: u16 = 1 << 11;
const ENTRIES: u16 = 1 << 12;
const SNAPSHOT: u16 = 1 << 13;
const REJECT: u16 = 1 << 14;
const KNOWN: u16 = (1 << 15) - 1;

/// What a message takes without its payloads, at most.
const MESSAGE_BYTES: usize = 1 + 2 + NUMBERS * 8 + 4 + 4;
/// What an entry takes without its payloads.
const ENTRY_BYTES: usize = 1 + 8 + 8 + 4 + 4;
/// What a snapshot takes without members and data.
const SNAPSHOT_BYTES: usize = 8 + 8 + 1 + 4 * 4 + 4;

fn numbers(message: &Message) -> [u64; NUMBERS] {
    let Message { to, from, term, log_term, index, commit, commit_term, .. } = *message;
    let Message { request_snapshot, reject_hint, deprecated_priority, priority, .. } = *message;
    // The last is signed, and keeps its bits.
    let priority = priority as u64;
    [to, from, term, log_term, index, commit, commit_term, request_snapshot, reject_hint, deprecated_priority, priority]
}

fn with_numbers(numbers: [u64; NUMBERS]) -> Message {
    let [to, from, term, log_term, index, commit, commit_term, rest @ ..] = numbers;
    let [request_snapshot, reject_hint, deprecated_priority, priority] = rest;
    let priority = priority as i64;
    Message {
        to,
        from,
        term,
        log_term,
        index,
        commit,
        commit_term,
        request_snapshot,
        reject_hint,
        deprecated_priority,
        priority,
        ..Message::default()
    }
}

/// How many bytes `message` takes at most when it is encoded.
pub fn wire_bytes(message: &Message) -> usize {
    let entries = message.entries.iter().map(|entry| ENTRY_BYTES + entry.data.len() + entry.context.len());
    let snapshot = message.snapshot.as_ref().map_or(0, |snapshot| {
        let members: usize = lists(snapshot.get_metadata().get_conf_state()).iter().map(|list| list.len()).sum();
        SNAPSHOT_BYTES + members * 8 + snapshot.data.len()
    });
    MESSAGE_BYTES + message.context.len() + entries.sum::<usize>() + snapshot
}

/// Whether a message is one that services send to each other.
pub(super) fn travels(message: &Message) -> bool {
    TYPES.contains(&message.msg_type)
}

/// Writes a message. Returns whether it may travel: if not, nothing is written.
pub fn encode(message: &Message, to: &mut Pieces) -> bool {
    let Some(kind) = TYPES.iter().position(|kind| *kind == message.msg_type) else { return false };
    let numbers = numbers(message);
    let mut present = 0;
    for (at, number) in numbers.iter().enumerate() {
        present |= u16::from(*number != 0) << at;
    }
    let mut mark = |is_there: bool, bit| present |= if is_there { bit } else { 0 };
    mark(!message.context.is_empty(), CONTEXT);
    mark(!message.entries.is_empty(), ENTRIES);
    mark(message.snapshot.is_some(), SNAPSHOT);
    mark(message.reject, REJECT);
    to.put_u8(kind as u8);
    to.put_u16(present);
    numbers.iter().filter(|number| **number != 0).for_each(|number| to.put_u64(*number));
    if !message.context.is_empty() {
        to.put_payload(&message.context);
    }
    if !message.entries.is_empty() {
        to.put_u32(message.entries.len() as u32);
        message.entries.iter().for_each(|entry| encode_entry(entry, to));
    }
    if let Some(snapshot) = message.snapshot.as_ref() {
        encode_snapshot(snapshot, to);
    }
    true
}

fn encode_entry(entry: &Entry, to: &mut Pieces) {
    to.put_u8(ENTRY_TYPES.iter().position(|kind| *kind == entry.entry_type).unwrap_or(0) as u8);
    to.put_u64(entry.term);
    to.put_u64(entry.index);
    to.put_payload(&entry.data);
    to.put_payload(&entry.context);
}

fn lists(members: &ConfState) -> [&Vec<u64>; 4] {
    [&members.voters, &members.learners, &members.voters_outgoing, &members.learners_next]
}

fn encode_snapshot(snapshot: &Snapshot, to: &mut Pieces) {
    let metadata = snapshot.get_metadata();
    let members = metadata.get_conf_state();
    to.put_u64(metadata.index);
    to.put_u64(metadata.term);
    to.put_u8(u8::from(members.auto_leave));
    for list in lists(members) {
        to.put_u32(list.len() as u32);
        list.iter().for_each(|member| to.put_u64(*member));
    }
    to.put_payload(&snapshot.data);
}

/// Reads a message.
///
/// # Errors
/// It is none.
pub fn decode(from: &mut Fields) -> Result<Message, Malformed> {
    let kind = usize::from(from.u8()?);
    let kind = *TYPES.get(kind).ok_or(Malformed("a message in it is of no known type"))?;
    let present = from.u16()?;
    if present & !KNOWN != 0 {
        return Err(Malformed("a message in it has fields that are not known"));
    }
    let mut numbers = [0; NUMBERS];
    for (at, number) in numbers.iter_mut().enumerate() {
        if present & (1 << at) != 0 {
            *number = from.u64()?;
        }
    }
    let mut message = with_numbers(numbers);
    message.msg_type = kind;
    message.reject = present & REJECT != 0;
    if present & CONTEXT != 0 {
        message.context = from.payload()?;
    }
    if present & ENTRIES != 0 {
        let count = from.count(ENTRY_BYTES)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(decode_entry(from)?);
        }
        message.entries = entries.into();
    }
    if present & SNAPSHOT != 0 {
        message.set_snapshot(decode_snapshot(from)?);
    }
    Ok(message)
}

fn decode_entry(from: &mut Fields) -> Result<Entry, Malformed> {
    let kind = usize::from(from.u8()?);
    let entry_type = *ENTRY_TYPES.get(kind).ok_or(Malformed("an entry in it is of no known type"))?;
    let (term, index) = (from.u64()?, from.u64()?);
    let (data, context) = (from.payload()?, from.payload()?);
    Ok(Entry { entry_type, term, index, data, context, ..Entry::default() })
}

fn decode_snapshot(from: &mut Fields) -> Result<Snapshot, Malformed> {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = from.u64()?;
    metadata.term = from.u64()?;
    let members = metadata.mut_conf_state();
    members.auto_leave = match from.u8()? {
        0 => false,
        1 => true,
        _ => return Err(Malformed("members in it neither leave by themselves nor do not")),
    };
    for list in [&mut members.voters, &mut members.learners, &mut members.voters_outgoing, &mut members.learners_next] {
        let count = from.count(8)?;
        list.reserve_exact(count);
        for _ in 0..count {
            list.push(from.u64()?);
        }
    }
    snapshot.data = from.payload()?;
    Ok(snapshot)
}
