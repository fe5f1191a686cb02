use proptest::prelude::*;

use super::*;

/// A frame of that kind which holds `text`.
fn frame(kind: u16, text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + text.len()).expect("a small frame");
    let header = [SIGNATURE.as_slice(), &length.to_be_bytes(), &[0, 1, 0, 0], &kind.to_be_bytes(), &[0, 0]];
    [header.concat().as_slice(), text].concat()
}

const PING: u16 = 0;

fn at(newest: Group, released: Group) -> Circumstances {
    Circumstances { newest, released, room: 1000, may_tell: true }
}

/// All that leaves at once, if the other node takes everything.
fn flush(link: &mut BusLink, released: Group) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = link.next(released).map(<[u8]>::to_vec) {
        link.sent(bytes.len());
        all.extend(bytes);
    }
    all
}

#[test]
fn messages_are_told_from_other_frames() {
    for kind in [4, 10, 4 | LIGHT, 10 | LIGHT] {
        let message = frame(kind, b"channel and message");
        assert!(is_published(&message));
        assert!(!is_published(&message[..message.len() - 1]) && !is_published(&message[1..]));
    }
    for kind in [0, 1, 2, 3, 5, 6, 7, 8, 9, 11] {
        assert!(!is_published(&frame(kind, b"")), "{kind}");
    }
    assert!(!is_published(b"") && !is_published(b"RCmb"));
}

#[test]
fn a_message_waits_for_the_newest_write_and_those_behind_it_for_theirs() {
    let mut link = BusLink::default();
    let [first, second] = [b"1", b"2"].map(|text| frame(4, text));
    assert_eq!(link.offer(&first, &at(5, 5)), Offered::Passes, "everything is durable");
    assert_eq!(link.offer(&first, &at(6, 5)), Offered::Waits);
    assert_eq!(link.offer(&frame(PING, b""), &at(6, 5)), Offered::Passes, "nodes tell that they live");
    assert_eq!(link.offer(&second, &at(6, 6)), Offered::Waits, "it is published later than one that waits");
    assert_eq!(link.next(5), None);
    assert_eq!(flush(&mut link, 6), [first, second].concat());
    assert!(link.is_idle());
}

#[test]
fn a_frame_that_is_begun_is_ended_before_another_one() {
    let mut link = BusLink::default();
    let (message, ping) = (frame(10, b"message"), frame(PING, b"ping"));
    assert_eq!(link.offer(&message, &at(2, 1)), Offered::Waits);
    assert_eq!(link.offer(&ping, &at(2, 1)), Offered::Passes);
    link.wrote(3, ping.len());
    assert_eq!(link.next(2), None, "the ping first");
    assert_eq!(link.offer(&message, &at(3, 2)), Offered::Passes, "its rest, whatever that looks like");
    link.wrote(ping.len() - 3, ping.len() - 3);
    assert_eq!(link.next(2), Some(&message[..]));
    link.sent(0);
    assert!(link.has_begun(), "by TLS the same is to be offered again");
    link.sent(4);
    assert_eq!(link.offer(&ping, &at(3, 2)), Offered::Later);
    assert_eq!(link.next(0), Some(&message[4..]), "it was released before");
    link.sent(message.len() - 4);
    assert_eq!(link.offer(&ping, &at(3, 2)), Offered::Passes);
    link.wrote(0, ping.len());
    assert_eq!(link.offer(&ping, &at(3, 2)), Offered::Passes);
    link.wrote(ping.len(), ping.len());
    assert!(link.is_idle());
}

#[test]
fn a_message_for_which_there_is_no_room_is_lost() {
    let mut link = BusLink::default();
    let message = frame(4, b"message");
    let with_room = |room| Circumstances { room, ..at(2, 1) };
    assert_eq!(link.offer(&message, &with_room(message.len() - 1)), Offered::NoRoom);
    assert_eq!(link.offer(&message, &with_room(message.len())), Offered::Waits);
    assert_eq!(link.waiting(), (1, message.len()));
}

#[test]
fn what_was_published_before_the_node_ceased_to_lead_never_leaves() {
    let mut link = BusLink::default();
    let [old, begun, new] = [b"o", b"b", b"n"].map(|text| frame(4, text));
    link.server_has(true);
    assert_eq!(link.offer(&begun, &at(2, 1)), Offered::Waits);
    assert_eq!(link.offer(&old, &at(3, 1)), Offered::Waits);
    link.sent(4);
    assert_eq!(link.offer(&new, &Circumstances { may_tell: false, ..at(3, 1) }), Offered::Later);
    link.abandon();
    assert_eq!(flush(&mut link, 3), begun[4..], "the other node waits for its rest");
    assert_eq!(link.offer(&old, &at(3, 3)), Offered::Dropped, "the server had it then");
    assert_eq!(link.offer(&frame(PING, b""), &at(3, 3)), Offered::Passes);
    link.wrote(1, 1);
    link.server_has(false);
    link.server_has(true);
    assert_eq!(link.offer(&old, &Circumstances { may_tell: false, ..at(3, 3) }), Offered::Dropped);
    assert_eq!(link.offer(&new, &at(3, 3)), Offered::Passes);
}

/// What can happen to a link.
#[derive(Debug, Clone)]
enum StepOfLink {
    /// Something is published; after a write or not.
    Publish { writes: bool },
    /// The server has another frame.
    Ping,
    /// The server is called to write, and the socket has room for so many bytes.
    Write { room: usize },
    /// The log acknowledges so many more groups, and what waited is written as far as the socket has room.
    Release { groups: u64, room: usize },
}

fn step() -> impl Strategy<Value = StepOfLink> {
    prop_oneof![
        any::<bool>().prop_map(|writes| StepOfLink::Publish { writes }),
        Just(StepOfLink::Ping),
        prop_oneof![0..60usize, Just(usize::MAX)].prop_map(|room| StepOfLink::Write { room }),
        (0..3u64, prop_oneof![0..60usize, Just(usize::MAX)])
            .prop_map(|(groups, room)| StepOfLink::Release { groups, room }),
    ]
}

/// Writes of what waited until the socket has no more room.
fn write_own(link: &mut BusLink, released: Group, room: &mut usize, wire: &mut Vec<u8>) {
    while let Some(bytes) = link.next(released).map(<[u8]>::to_vec) {
        let written = bytes.len().min(*room);
        link.sent(written);
        wire.extend(&bytes[..written]);
        *room -= written;
        if written < bytes.len() {
            return;
        }
    }
}

proptest! {
    #[test]
    fn whole_frames_leave_and_messages_in_order_after_their_writes(steps in proptest::collection::vec(step(), 1..150)) {
        let mut link = BusLink::default();
        let (mut newest, mut released) = (0, 0);
        // What the server has for the link, and how many bytes of its first frame are written.
        let mut queue: VecDeque<Vec<u8>> = VecDeque::new();
        let (mut offset, mut count) = (0, 0u32);
        let mut wire = Vec::new();
        // Of each message, in order: the group that it was published after.
        let mut groups: Vec<Group> = Vec::new();
        let mut seen = 0;
        for step in steps.into_iter().chain([
            StepOfLink::Release { groups: u64::MAX, room: usize::MAX },
            StepOfLink::Write { room: usize::MAX },
            StepOfLink::Release { groups: 0, room: usize::MAX },
        ]) {
            match step {
                StepOfLink::Publish { writes } => {
                    newest += u64::from(writes);
                    queue.push_back(frame(4, &u32::try_from(groups.len()).expect("few").to_be_bytes()));
                    groups.push(newest);
                }
                StepOfLink::Ping => {
                    count += 1;
                    queue.push_back(frame(PING, &count.to_be_bytes()));
                }
                StepOfLink::Write { mut room } => {
                    write_own(&mut link, 0, &mut room, &mut wire);
                    while let Some(first) = queue.front() {
                        let rest = &first[offset..];
                        let written = match link.offer(rest, &Circumstances { room: usize::MAX, ..at(newest, released) }) {
                            Offered::Passes => {
                                let written = rest.len().min(room);
                                link.wrote(written, rest.len());
                                wire.extend(&rest[..written]);
                                room -= written;
                                written
                            }
                            Offered::Waits => rest.len(),
                            Offered::Later => break,
                            other => panic!("{other:?}"),
                        };
                        if written < rest.len() {
                            offset += written;
                            break;
                        }
                        queue.pop_front();
                        offset = 0;
                    }
                }
                StepOfLink::Release { groups, mut room } => {
                    released = released.saturating_add(groups).min(newest);
                    write_own(&mut link, released, &mut room, &mut wire);
                }
            }
            // The other node reads whole frames.
            let mut rest = &wire[..];
            let mut messages = Vec::new();
            while rest.len() >= 16 {
                prop_assert!(rest.starts_with(SIGNATURE), "frames are mixed");
                let length = u32::from_be_bytes(rest[4..8].try_into().expect("four bytes")) as usize;
                let Some(frame) = rest.get(..length) else { break };
                if is_published(frame) {
                    messages.push(u32::from_be_bytes(frame[16..].try_into().expect("four bytes")) as usize);
                }
                rest = &rest[length..];
            }
            prop_assert!(messages.iter().copied().eq(0..messages.len()), "out of order: {:?}", messages);
            for message in &messages[seen..] {
                prop_assert!(groups[*message] <= released, "a message left before its write");
            }
            seen = messages.len();
        }
        prop_assert_eq!(seen, groups.len(), "messages are left behind");
        prop_assert!(queue.is_empty() && link.waiting() == (0, 0));
    }
}
