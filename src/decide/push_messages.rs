//! Recognises messages among replies, in the bytes that the server writes to a client that subscribed.

/// The end of the name of messages on the wire, in both versions of the protocol: `message`, `pmessage`, `smessage`. Values may
/// look the same; they are then taken for messages, which makes them wait.
const NAME: &[u8] = b"message\r\n";

/// The beginning of the channels of keyspace notifications.
const KEY_CHANNEL: &[u8] = b"__key";
/// The channel of invalidations, for clients that speak RESP2.
const INVALIDATION_CHANNEL: &[u8] = b"__redis__:invalidate";
/// An invalidation in RESP3, which is no message.
const INVALIDATION: &[u8] = b">2\r\n$10\r\ninvalidate\r\n";

/// A caller that passes bytes piece by piece has to pass this many of the last ones again.
pub const LONGEST_NAME_BYTES: usize = INVALIDATION.len();
const _: () = assert!(LONGEST_NAME_BYTES >= INVALIDATION_CHANNEL.len() && LONGEST_NAME_BYTES >= NAME.len());

/// Whether the bytes contain a message. The first `seen` bytes were looked at before.
pub fn contain_one<'a>(buffers: impl Iterator<Item = &'a [u8]>, seen: u64) -> bool {
    contain(NAME, buffers, seen)
}

/// Whether the bytes contain a message about keys: a keyspace notification, or an invalidation. A message of another kind counts as well if it
/// looks like one. The first `seen` bytes were looked at before.
pub fn tell_of_keys<'a>(buffers: impl Iterator<Item = &'a [u8]> + Clone, seen: u64) -> bool {
    let has = |what| contain(what, buffers.clone(), seen);
    has(INVALIDATION) || (has(NAME) && (has(KEY_CHANNEL) || has(INVALIDATION_CHANNEL)))
}

fn contain<'a>(what: &[u8], buffers: impl Iterator<Item = &'a [u8]>, seen: u64) -> bool {
    let has = |bytes: &[u8]| memchr::memmem::find(bytes, what).is_some();
    // It may have begun in what was seen.
    let mut skip = seen.saturating_sub(what.len() as u64 - 1);
    // The end of what was looked at, for a name that begins in one buffer and ends in the next.
    let mut end: Vec<u8> = Vec::new();
    for buffer in buffers {
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(buffer.len());
        skip -= skipped as u64;
        let buffer = &buffer[skipped..];
        let beginning = &buffer[..buffer.len().min(what.len() - 1)];
        end.extend_from_slice(beginning);
        if has(&end) || has(buffer) {
            return true;
        }
        if buffer.len() >= what.len() {
            end.clear();
            end.extend_from_slice(&buffer[buffer.len() - (what.len() - 1)..]);
        } else if end.len() > what.len() - 1 {
            end.drain(..end.len() - (what.len() - 1));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MESSAGES: [&[u8]; 3] = [
        b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
        b">4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n$1\r\nm\r\n",
        b">3\r\n$8\r\nsmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
    ];

    #[test]
    fn replies_are_no_messages() {
        assert!(!contain_one([&b"+OK\r\n"[..], b"$7\r\nmessages\r\n"].into_iter(), 0));
        assert!(!contain_one([].into_iter(), 0));
    }

    #[test]
    fn notifications_of_keys_are_told_from_other_messages() {
        let tell = |bytes: &[u8]| tell_of_keys([bytes].into_iter(), 0);
        assert!(tell(b"*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$16\r\n__keyspace@0__:k\r\n$3\r\nset\r\n"));
        assert!(tell(b"*3\r\n$7\r\nmessage\r\n$18\r\n__keyevent@0__:set\r\n$1\r\nk\r\n"));
        assert!(tell(b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$1\r\nk\r\n"));
        assert!(tell(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"));
        assert!(!tell(MESSAGES[0]));
        assert!(!tell(b"*3\r\n$9\r\nsubscribe\r\n$18\r\n__keyevent@0__:set\r\n:1\r\n"));
        assert!(!tell(b"*3\r\n$9\r\nsubscribe\r\n$20\r\n__redis__:invalidate\r\n:1\r\n"));
    }

    #[test]
    fn what_was_seen_is_not_looked_at_again() {
        let (message, reply) = (MESSAGES[0], &b"+OK\r\n"[..]);
        let seen = (message.len() + 20) as u64;
        assert!(contain_one([message, &[b' '; 20], reply].into_iter(), 0));
        assert!(!contain_one([message, &[b' '; 20], reply].into_iter(), seen));
    }

    proptest! {
        #[test]
        fn a_message_is_found_however_it_is_cut(
            which in 0..MESSAGES.len(),
            before in "[a-z]{0,40}",
            mut cuts in prop::collection::vec(0usize..80, 0..6),
            seen in 0u64..40,
        ) {
            let all = [before.as_bytes(), MESSAGES[which]].concat();
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(all.len()));
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let parts = cuts.windows(2).map(|ends| &all[ends[0]..ends[1]]);
            // What was seen ends before the message, or within its first line.
            prop_assert!(contain_one(parts, seen.min(before.len() as u64)));
        }
    }

    #[test]
    fn in_any_bytes_however_they_are_cut_a_message_is_found_where_there_is_one() {
        bolero::check!().with_type::<(Vec<u8>, Vec<u8>, u8)>().for_each(|(bytes, cuts, seen)| {
            // Pieces of the name are more likely than chance would have it.
            let all: Vec<u8> = bytes
                .iter()
                .flat_map(|byte| match byte {
                    0..=63 => &NAME[usize::from(byte % 10)..],
                    64..=127 => &NAME[..usize::from(byte % 10)],
                    _ => std::slice::from_ref(byte),
                })
                .copied()
                .collect();
            let seen = usize::from(*seen).min(all.len());
            let (mut rest, mut chunks) = (&all[..], Vec::with_capacity(cuts.len() + 1));
            for cut in cuts {
                let (chunk, after) = rest.split_at(usize::from(cut % 16).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            chunks.push(rest);
            let is_there = all[seen.saturating_sub(NAME.len() - 1)..].windows(NAME.len()).any(|window| window == NAME);
            let is_found = allocation::within(1024, || contain_one(chunks.iter().copied(), seen as u64));
            assert_eq!(is_found, is_there);
        });
    }
}
