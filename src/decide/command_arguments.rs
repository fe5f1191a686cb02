//! What stands in the arguments of commands whose effect the module puts into the replication stream. Arguments include the command's name.

/// An XREADGROUP that reads pending entries.
pub struct PendingRead<'a> {
    /// Position of the group, with the consumer behind it.
    pub group: usize,
    /// At most this many entries of each stream, as a decimal number.
    pub count: &'a [u8],
    /// Positions of the streams whose pending entries it reads, each with the position of the id behind which it begins.
    pub streams: Vec<(usize, usize)>,
}

impl<'a> PendingRead<'a> {
    /// `None` if it reads none, or is another command.
    pub fn of(arguments: &[&'a [u8]]) -> Option<PendingRead<'a>> {
        if !arguments.first()?.eq_ignore_ascii_case(b"XREADGROUP") {
            return None;
        }
        let (mut group, mut count, mut at) = (0, b"9223372036854775807".as_slice(), 1);
        loop {
            let word = *arguments.get(at)?;
            let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
            match () {
                () if is("GROUP") => (group, at) = (at + 1, at + 3),
                () if is("COUNT") => {
                    let given = *arguments.get(at + 1)?;
                    if !given.starts_with(b"-") && given.iter().any(|digit| *digit != b'0') {
                        count = given;
                    }
                    at += 2;
                }
                () if is("BLOCK") => at += 2,
                () if is("NOACK") => at += 1,
                () if is("STREAMS") => break,
                () => return None,
            }
        }
        let half = (arguments.len() - at - 1) / 2;
        let streams = (at + 1..=at + half).map(|key| (key, key + half));
        let streams: Vec<_> = streams.filter(|(_, id)| arguments[*id] != b">").collect();
        (group > 0 && !streams.is_empty()).then_some(PendingRead { group, count, streams })
    }
}

/// Whether a command that made `changes` changes may have met fields that have expired: each field that it names and that is there is one
/// change. COPY names none, and takes all.
pub fn may_name_expired_fields(arguments: &[&[u8]], changes: i64) -> bool {
    let Some(name) = arguments.first() else { return false };
    let named = if name.eq_ignore_ascii_case(b"HDEL") {
        arguments.len().saturating_sub(2)
    } else {
        let word = arguments.iter().skip(2).position(|argument| argument.eq_ignore_ascii_case(b"FIELDS"));
        word.map_or(usize::MAX, |word| arguments.len().saturating_sub(word + 4))
    };
    usize::try_from(changes).is_ok_and(|changes| changes < named)
}

/// The database to which COPY copies, and whether it may replace what is there. `None` if this is another command.
pub fn copied_to(arguments: &[&[u8]], selected: u16) -> Option<(u16, bool)> {
    if !arguments.first()?.eq_ignore_ascii_case(b"COPY") {
        return None;
    }
    let options = arguments.get(3..)?;
    let find = |name: &[u8]| options.iter().position(|option| option.eq_ignore_ascii_case(name));
    let database = match find(b"DB") {
        Some(at) => std::str::from_utf8(options.get(at + 1)?).ok()?.parse().ok()?,
        None => selected,
    };
    Some((database, find(b"REPLACE").is_some()))
}

/// Where the consumer group stands, with the consumer behind it, in a command that makes a consumer and does not say so to replicas.
pub fn group_position(arguments: &[&[u8]]) -> Option<usize> {
    let name = arguments.first()?;
    let position = match name.len() {
        10 if name.eq_ignore_ascii_case(b"XREADGROUP") => {
            let mut at = 1;
            loop {
                match *arguments.get(at)? {
                    word if word.eq_ignore_ascii_case(b"GROUP") => break at + 1,
                    word if word.eq_ignore_ascii_case(b"COUNT") || word.eq_ignore_ascii_case(b"BLOCK") => at += 2,
                    word if word.eq_ignore_ascii_case(b"NOACK") => at += 1,
                    _ => return None,
                }
            }
        }
        6 | 10 if name.eq_ignore_ascii_case(b"XCLAIM") || name.eq_ignore_ascii_case(b"XAUTOCLAIM") => 2,
        _ => return None,
    };
    (position + 1 < arguments.len()).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&[u8]> {
        text.split(' ').map(str::as_bytes).collect()
    }

    #[test]
    fn fields_may_have_expired_where_fewer_were_changed_than_named() {
        let may = |command: &str, changes| may_name_expired_fields(&words(command), changes);
        assert!(may("HPERSIST h FIELDS 2 a b", 1) && !may("HPERSIST h FIELDS 2 a b", 2));
        assert!(may("HEXPIRE fields 10 NX fields 1 fields", 0) && !may("HEXPIRE fields 10 NX fields 1 fields", 1));
        assert!(may("hdel h a b", 1) && !may("hdel h a b", 2));
        assert!(may("HGETDEL h FIELDS 3 a b c", 2) && !may("HGETDEL h FIELDS 3 a b c", 3));
        assert!(may("COPY h x REPLACE", 1));
        assert!(!may("HDEL", 0));
    }

    #[test]
    fn copy_says_to_which_database() {
        assert_eq!(copied_to(&words("COPY db replace"), 9), Some((9, false)));
        assert_eq!(copied_to(&words("copy a b replace db 3"), 9), Some((3, true)));
        assert_eq!(copied_to(&words("COPY a b DB 3"), 9), Some((3, false)));
        assert_eq!(copied_to(&words("HDEL a b c"), 9), None);
    }

    #[test]
    fn group_and_consumer_stand_where_the_command_says() {
        let group = |text| group_position(&words(text)).map(|at| words(text)[at].to_vec());
        assert_eq!(group("xreadgroup GROUP g c STREAMS x >"), Some(b"g".to_vec()));
        assert_eq!(group("XREADGROUP COUNT 1 BLOCK 0 NOACK group g c STREAMS GROUP >"), Some(b"g".to_vec()));
        assert_eq!(group("XCLAIM x g c 0 1-1"), Some(b"g".to_vec()));
        assert_eq!(group("XAUTOCLAIM x g c 0 0"), Some(b"g".to_vec()));
        assert_eq!(group("XGROUP CREATECONSUMER x g c"), None);
        assert_eq!(group("XREADGROUP STREAMS GROUP g c"), None);
    }

    #[test]
    fn pending_entries_are_read_where_an_id_is_given() {
        let read = |text: &'static str| {
            PendingRead::of(&words(text))
                .map(|read| (read.group, String::from_utf8_lossy(read.count).into_owned(), read.streams))
        };
        assert_eq!(read("XREADGROUP GROUP g c STREAMS x >"), None);
        assert_eq!(read("XREAD STREAMS x 0"), None);
        assert_eq!(read("xreadgroup COUNT 5 GROUP g c NOACK STREAMS x y > 7-1"), Some((4, "5".into(), vec![(9, 11)])));
        assert_eq!(
            read("XREADGROUP GROUP g c COUNT 0 STREAMS x 0"),
            Some((2, "9223372036854775807".into(), vec![(7, 8)]))
        );
        assert_eq!(
            read("XREADGROUP GROUP g c BLOCK 0 COUNT -1 STREAMS x 0").map(|read| read.1),
            Some("9223372036854775807".into())
        );
    }
}
