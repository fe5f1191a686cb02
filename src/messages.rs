//! Recognises messages among replies, in the bytes that the server writes to a client that subscribed.

/// The end of the name of messages on the wire, in both versions of the protocol: `message`, `pmessage`, `smessage`. Values may
/// look the same; they are then taken for messages, which makes them wait.
const NAME: &[u8] = b"message\r\n";

/// Whether the bytes contain a message. The first `seen` bytes were looked at before.
pub fn contain_one<'a>(buffers: impl Iterator<Item = &'a [u8]>, seen: u64) -> bool {
    // A name may have begun in what was seen.
    let mut skip = seen.saturating_sub(NAME.len() as u64 - 1);
    // The end of what was looked at, for a name that begins in one buffer and ends in the next.
    let mut end: Vec<u8> = Vec::new();
    for buffer in buffers {
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(buffer.len());
        skip -= skipped as u64;
        let buffer = &buffer[skipped..];
        let beginning = &buffer[..buffer.len().min(NAME.len() - 1)];
        end.extend_from_slice(beginning);
        if has_name(&end) || has_name(buffer) {
            return true;
        }
        if buffer.len() >= NAME.len() {
            end.clear();
            end.extend_from_slice(&buffer[buffer.len() - (NAME.len() - 1)..]);
        } else if end.len() > NAME.len() - 1 {
            end.drain(..end.len() - (NAME.len() - 1));
        }
    }
    false
}

fn has_name(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, NAME).is_some()
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
