//! Fuzzes what is read from peers: anything is read as what it says or refused, and takes no more memory than a few times what came.

use bytes::{BufMut, Bytes};
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

use super::*;

/// What a list takes in memory for each of its bytes on the wire at most: an entry without data has 25 bytes there.
const MEMORY_FOR_EACH_BYTE: usize = 8;

/// Type, numbers, priority, reject, context, entries, snapshot, whether the first entry is long.
type AnyMessage = (u8, [u64; 10], i64, bool, Vec<u8>, Vec<AnyEntry>, Option<AnySnapshot>, bool);
/// Type, term, index, data, context.
type AnyEntry = (u8, u64, u64, Vec<u8>, Vec<u8>);
/// Index, term, members, whether they leave by themselves, data.
type AnySnapshot = (u64, u64, [Vec<u64>; 4], bool, Vec<u8>);

const KINDS: [MessageType; 19] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// What a service tells its own groups only.
const LOCAL: [MessageType; 5] = [
    MessageType::MsgHup,
    MessageType::MsgBeat,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgCheckQuorum,
];

fn message(any: &AnyMessage) -> Message {
    let (kind, numbers, priority, reject, context, entries, snapshot, is_long) = any;
    let [to, from, term, log_term, index, commit, commit_term, request_snapshot, reject_hint, deprecated_priority] =
        *numbers;
    let entries = entries.iter().enumerate().map(|(at, (kind, term, index, data, context))| {
        let kinds = [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2];
        let entry_type = kinds[usize::from(*kind) % kinds.len()];
        let mut data = data.clone();
        data.resize(data.len() + if *is_long && at == 0 { 5000 } else { 0 }, 7);
        let (data, context) = (data.into(), context.clone().into());
        Entry { entry_type, term: *term, index: *index, data, context, ..Entry::default() }
    });
    let mut message = Message {
        msg_type: KINDS[usize::from(*kind) % KINDS.len()],
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
        priority: *priority,
        reject: *reject,
        context: context.clone().into(),
        entries: entries.collect::<Vec<_>>().into(),
        ..Message::default()
    };
    if let Some(any) = snapshot {
        message.set_snapshot(self::snapshot(any));
    }
    message
}

fn snapshot((index, term, members, auto_leave, data): &AnySnapshot) -> Snapshot {
    let ([voters, learners, voters_outgoing, learners_next], auto_leave) = (members.clone(), *auto_leave);
    let members = ConfState { voters, learners, voters_outgoing, learners_next, auto_leave, ..ConfState::default() };
    let mut snapshot = Snapshot { data: data.clone().into(), ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (*index, *term);
    metadata.set_conf_state(members);
    snapshot
}

/// The frame of a body, as it comes.
fn framed(kind: Kind, body: Pieces) -> Vec<u8> {
    Frame::encode(kind, body)
}

/// The frames in what comes in parts of so many bytes, until one is malformed.
fn frames(bytes: &[u8], part: usize, most_bytes: usize) -> Result<Vec<Frame>, Malformed> {
    let mut buffer = FrameBuffer::new(most_bytes);
    let (mut rest, mut frames) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (part, later) = rest.split_at(part.clamp(1, rest.len()));
        buffer.room().put_slice(part);
        rest = later;
        while let Some(frame) = buffer.take_frame()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

#[test]
fn any_message_survives_the_wire() {
    bolero::check!().with_type::<(Vec<(String, AnyMessage)>, u16)>().for_each(|(messages, part)| {
        let mut body = Pieces::default();
        let mut sent = Vec::new();
        for (group, any) in messages.iter().take(4) {
            let message = message(any);
            let before = body.len();
            let travels = put_message(group, &message, &mut body);
            assert_eq!(travels, !LOCAL.contains(&message.msg_type) && group.len() < 256);
            assert_eq!(travels, body.len() > before);
            assert!(body.len() - before <= wire_bytes(&message) + 1 + group.len());
            if travels {
                sent.push((group.clone(), message));
            }
        }
        let frames = frames(&framed(Kind::Messages, body), usize::from(*part), MOST_FRAME_BYTES).expect("frames");
        let [frame] = <[Frame; 1]>::try_from(frames).expect("one frame");
        assert_eq!(frame.kind, Kind::Messages);
        let came =
            Incoming::new(frame.body).map(|one| one.map(|(group, message)| (group.as_str().to_owned(), message)));
        assert_eq!(came.collect::<Result<Vec<_>, _>>().expect("messages"), sent);
    });
}

#[test]
fn long_payloads_are_not_copied() {
    let data = Bytes::from(vec![7; 100_000]);
    let mut message = Message { msg_type: MessageType::MsgAppend, to: 2, ..Message::default() };
    message.set_entries(vec![Entry { data: data.clone(), ..Entry::default() }].into());
    let mut body = Pieces::default();
    assert!(put_message("s1", &message, &mut body));
    let pieces = body.finish();
    assert!(pieces.iter().any(|piece| piece.as_ptr() == data.as_ptr()), "sent from where it is");
    let came = Bytes::from(pieces.concat());
    let of_came = came.as_ptr_range();
    let (_, message) = Incoming::new(Fields::new(came, 100_000)).next().expect("one").expect("a message");
    assert!(of_came.contains(&message.entries[0].data.as_ptr()), "a slice of what came");
}

#[test]
fn a_short_payload_keeps_no_long_frame_in_memory() {
    let mut message = Message { msg_type: MessageType::MsgAppend, to: 2, ..Message::default() };
    message.set_entries(vec![Entry { data: Bytes::from_static(b"short"), ..Entry::default() }].into());
    let mut body = Pieces::default();
    assert!(put_message("s1", &message, &mut body));
    let came = Bytes::from(body.finish().concat());
    let (_, message) = Incoming::new(Fields::new(came.clone(), READ_BYTES)).next().expect("one").expect("a message");
    assert!(!came.as_ptr_range().contains(&message.entries[0].data.as_ptr()));
}

#[test]
fn any_bytes_are_messages_or_refused() {
    bolero::check!().with_type::<(Vec<u8>, u8)>().for_each(|(bytes, kept)| {
        let came = Bytes::from(bytes.clone());
        allocation::within(MEMORY_FOR_EACH_BYTE * bytes.len() + 256, || {
            let fields = Fields::new(came, usize::from(*kept) << 8);
            // Dropped one after the other, as a group would.
            Incoming::new(fields).fold(true, |is_good, one| {
                assert!(is_good, "nothing comes after what is malformed");
                one.is_ok()
            });
        });
    });
}

#[test]
fn a_changed_message_is_another_one_or_refused() {
    bolero::check!().with_type::<(AnyMessage, Vec<(u16, u8)>, Option<u16>)>().for_each(|(any, changes, cut)| {
        let mut body = Pieces::default();
        let _ = put_message("s1", &message(any), &mut body);
        let mut bytes = body.finish().concat();
        for (at, change) in changes.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
            let at = usize::from(*at) % bytes.len();
            bytes[at] ^= change;
        }
        bytes.truncate(cut.map_or(bytes.len(), usize::from));
        let most = MEMORY_FOR_EACH_BYTE * bytes.len() + 256;
        let came = Bytes::from(bytes);
        allocation::within(most, || Incoming::new(Fields::new(came, 0)).for_each(drop));
    });
}

#[test]
fn any_bytes_are_frames_or_refused() {
    const MOST_BYTES: usize = 1000;
    bolero::check!().with_type::<(Vec<(u8, Vec<u8>)>, Vec<u8>, u8)>().for_each(|(good, bad, part)| {
        let kinds = [Kind::Ping, Kind::Messages, Kind::Request, Kind::Hello, Kind::Refused];
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for (kind, content) in good {
            let kind = kinds[usize::from(*kind) % kinds.len()];
            let mut body = Pieces::default();
            body.put_slice(content);
            bytes.extend(framed(kind, body));
            expected.push((kind, content.len()));
        }
        let well_formed = frames(&bytes, usize::from(*part), MOST_BYTES).expect("frames");
        let came: Vec<_> = well_formed.iter().map(|frame| (frame.kind, frame.body.left())).collect();
        assert_eq!(came, expected);
        bytes.extend_from_slice(bad);
        let most = 4 * bytes.len() + 8 * MOST_BYTES;
        let _ = allocation::within(most, || frames(&bytes, usize::from(*part), MOST_BYTES));
    });
}

#[test]
fn a_bit_that_flips_is_noticed() {
    let mut body = Pieces::default();
    body.put_slice(b"some bytes");
    let frame = framed(Kind::Request, body);
    for bit in 0..frame.len() * 8 {
        let mut flipped = frame.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // A length that is longer waits for more, which never comes.
        assert!(frames(&flipped, usize::MAX, 1000).map_or(true, |frames| frames.is_empty()), "bit {bit}");
    }
}

#[test]
fn a_length_alone_takes_no_memory() {
    let mut header = framed(Kind::Messages, Pieces::default());
    header[..4].copy_from_slice(&(MOST_FRAME_BYTES as u32).to_le_bytes());
    let take = |most_bytes| {
        let mut buffer = FrameBuffer::new(most_bytes);
        buffer.room().put_slice(&header);
        let next = buffer.take_frame().map(|frame| frame.is_some());
        let _ = buffer.room();
        (next, buffer)
    };
    let (next, _buffer) = allocation::within(8 << 10, || take(GREETING_BYTES));
    next.expect_err("too long for a stranger");
    let (next, _buffer) = allocation::within(3 << 20, || take(MOST_FRAME_BYTES));
    assert!(!next.expect("its rest may come"));
}

#[test]
fn any_greeting_is_read_or_refused() {
    type Texts = [String; 6];
    bolero::check!().with_type::<(Vec<u8>, Texts, u64, Option<u64>)>().for_each(|(bytes, texts, number, cluster)| {
        let came = || Fields::new(Bytes::from(bytes.clone()), 0);
        allocation::within(MEMORY_FOR_EACH_BYTE * bytes.len() + 1024, || {
            let _ = (Begin::decode(came()), Challenge::decode(came()), Introduction::decode(came()));
            let _ = (Welcome::decode(came()), Refusal::decode(came()), Request::decode(came()));
        });
        let [to, name, zone, client_address, http_address, peer_address] = texts.clone().map(|mut text| {
            while text.len() > 255 {
                text.pop();
            }
            text
        });
        let joins = number % 2 == 1;
        let (member, cluster) = (*number, *cluster);
        let hello = Hello { member, cluster, name, zone, client_address, http_address, peer_address, joins };
        let told = Introduction { proof: [9; 32], process: !*number, to, hello };
        let sent = Fields::new(Bytes::from(told.encode().finish().concat()), 0);
        assert_eq!(Introduction::decode(sent).expect("the same"), told);
    });
}

#[test]
fn a_text_that_is_too_long_is_cut_off_between_characters() {
    let long = "ä".repeat(200);
    let sent = Fields::new(Bytes::from(Refusal(long.clone()).encode().finish().concat()), 0);
    assert_eq!(Refusal::decode(sent).expect("a text").0, long[..254]);
}
