//! Commands that mean something else to a replica than to the leader, so that other commands stand in the stream in their place. The server
//! decides by what has expired, or by what is in no order; a replica, which lets nothing expire by itself, would decide otherwise.

use valkey_module::{raw, Context};

use crate::decide::omitted_effects::Omits;
use crate::server::keys::{self, Unserialized};

/// The version of values that this server serializes (`RDB_VERSION`), and those before it that other nodes take as well.
const OWN_VERSION: u16 = 80;
const COMMON_VERSIONS: std::ops::RangeInclusive<u16> = 1..=11;

/// What goes into the stream in place of a command. Positions are those of arguments; 0 is the command's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instead {
    /// The list that the key at that position holds now; that there is none if it holds none.
    List(usize),
    /// The command, and behind it when the key at position 1 expires, in milliseconds since 1970.
    WithExpiry(i64),
    /// The command without the argument at that position.
    Without(usize),
    /// What the key at that position holds now, in the server's serialization; that it is not there if it holds nothing.
    Value(usize, Option<Vec<u8>>),
    /// The command with this as its argument at that position.
    With(usize, Vec<u8>),
}

impl Instead {
    /// In place of the command that just ran with these arguments, in that database. `None` if it is to stand in the stream itself.
    /// Main thread only, at the command's event. A key that the command found may have expired since.
    ///
    /// # Errors
    /// The server does not tell what the key holds.
    pub fn of(
        ctx: &Context,
        database: u16,
        omits: Omits,
        arguments: &[*mut raw::RedisModuleString],
        texts: &[&[u8]],
    ) -> Result<Option<Instead>, Unserialized> {
        let serialized = |at: usize| keys::serialized(ctx, database, arguments[at]);
        Ok(match omits {
            Omits::SortPatterns => sorted_by_pattern(texts).map(Instead::List),
            Omits::KeyExpiry => {
                let Some(named) = fields_keeping_expiry(texts) else { return Ok(None) };
                match keys::expiry_and_length(ctx, database, arguments[1]) {
                    // Else the replica's hash keeps another field, and with it the key.
                    Some((expires_at_ms, length)) if length <= named => expires_at_ms.map(Instead::WithExpiry),
                    Some(_) => None,
                    None => Some(Instead::Value(1, None)),
                }
            }
            Omits::MetCondition => condition_position(texts).map(Instead::Without),
            Omits::Order => {
                let Some((to, from)) = lex_range_stored(texts) else { return Ok(None) };
                // What the source was is not known if it is replaced, or not there any more.
                let is_unspecified = texts[to] == texts[from]
                    || keys::has_different_scores(ctx, database, arguments[from]).unwrap_or(true);
                if is_unspecified {
                    Some(Instead::Value(to, serialized(to)?))
                } else {
                    None
                }
            }
            Omits::Version => {
                let Some(at) = foreign_payload(texts) else { return Ok(None) };
                // It may have been restored with a time to live that is over, and deleted.
                Some(serialized(1)?.map_or(Instead::Value(1, None), |payload| Instead::With(at, payload)))
            }
            _ => None,
        })
    }
}

/// The position of the key under which SORT stores what it finds, if it looks at other keys for that: their fields may have expired, and
/// elements of a set that are equal by what stands there are in no order.
fn sorted_by_pattern(arguments: &[&[u8]]) -> Option<usize> {
    let (mut at, mut destination, mut has_pattern) = (2, None, false);
    while let Some(word) = arguments.get(at) {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        at += match () {
            () if is("LIMIT") => 3,
            () if is("STORE") => {
                destination = Some(at + 1);
                2
            }
            () if is("BY") || is("GET") => {
                has_pattern |= arguments.get(at + 1)?.contains(&b'*');
                2
            }
            () => 1,
        };
    }
    destination.filter(|at| has_pattern && *at < arguments.len())
}

/// How many fields HSETEX KEEPTTL names; `None` without KEEPTTL.
fn fields_keeping_expiry(arguments: &[&[u8]]) -> Option<usize> {
    let fields = arguments.iter().skip(2).position(|word| word.eq_ignore_ascii_case(b"FIELDS"))? + 2;
    let keeps = arguments[2..fields].iter().any(|word| word.eq_ignore_ascii_case(b"KEEPTTL"));
    keeps.then(|| arguments.len().saturating_sub(fields + 2) / 2)
}

/// The position of XX in MSETEX, if the command names a time, which may be over.
fn condition_position(arguments: &[&[u8]]) -> Option<usize> {
    let keys: usize = std::str::from_utf8(arguments.get(1)?).ok()?.parse().ok()?;
    let first = keys.checked_mul(2)?.checked_add(2)?;
    let options = arguments.get(first..)?;
    let find = |name: &str| options.iter().position(|option| option.eq_ignore_ascii_case(name.as_bytes()));
    (find("EXAT").is_some() || find("PXAT").is_some()).then(|| find("XX").map(|at| first + at))?
}

/// The positions of destination and source in ZRANGESTORE with BYLEX. Its result is specified only among members of equal score: otherwise it
/// follows from how a sorted set happens to be linked.
fn lex_range_stored(arguments: &[&[u8]]) -> Option<(usize, usize)> {
    let options = arguments.get(5..)?;
    options.iter().any(|option| option.eq_ignore_ascii_case(b"BYLEX")).then_some((1, 2))
}

/// The position of the value in RESTORE, if it is serialized in a version that not all nodes take: this server has `rdb-version-check
/// relaxed`.
fn foreign_payload(arguments: &[&[u8]]) -> Option<usize> {
    const AT: usize = 3;
    const CHECKSUM_BYTES: usize = 8;
    let payload = arguments.get(AT)?;
    let end = payload.len().checked_sub(CHECKSUM_BYTES)?;
    let version = u16::from_le_bytes(payload.get(end.checked_sub(2)?..end)?.try_into().ok()?);
    (version != OWN_VERSION && !COMMON_VERSIONS.contains(&version)).then_some(AT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&[u8]> {
        text.split(' ').map(str::as_bytes).collect()
    }

    #[test]
    fn sort_stores_what_it_finds_by_patterns_where_it_says_last() {
        let stored = |text| sorted_by_pattern(&words(text)).map(|at| words(text)[at].to_vec());
        assert_eq!(stored("SORT l BY h*->f STORE d"), Some(b"d".to_vec()));
        assert_eq!(stored("sort l store d limit 0 1 get # get w* desc alpha"), Some(b"d".to_vec()));
        assert_eq!(stored("SORT l STORE a GET h*->f STORE STORE"), Some(b"STORE".to_vec()));
        assert_eq!(stored("SORT l BY h*->f GET STORE"), None, "nothing is stored");
        assert_eq!(stored("SORT l BY nosort GET # STORE d"), None, "no other keys are read");
        assert_eq!(stored("SORT l* ALPHA STORE d*"), None, "names of keys are no patterns");
        assert_eq!(stored("SORT l BY"), None);
    }

    #[test]
    fn hsetex_names_fields_that_keep_their_time() {
        assert_eq!(fields_keeping_expiry(&words("HSETEX h KEEPTTL FIELDS 2 a 1 b 2")), Some(2));
        assert_eq!(fields_keeping_expiry(&words("hsetex keepttl fxx keepttl fields 1 fields 1")), Some(1));
        assert_eq!(fields_keeping_expiry(&words("HSETEX KEEPTTL EX 9 FIELDS 1 KEEPTTL 1")), None);
    }

    #[test]
    fn msetex_says_its_condition_behind_the_keys() {
        assert_eq!(condition_position(&words("MSETEX 2 XX a XX b XX PXAT 1")), Some(6));
        assert_eq!(condition_position(&words("msetex 1 k v exat 1 xx")), Some(6));
        assert_eq!(condition_position(&words("MSETEX 1 XX PXAT NX PXAT 1")), None);
        assert_eq!(condition_position(&words("MSETEX 1 k v XX EX 10")), None, "a time to come");
        assert_eq!(condition_position(&words("MSETEX 1 k v XX KEEPTTL")), None);
        assert_eq!(condition_position(&words("MSETEX 9 k v")), None);
    }

    #[test]
    fn a_lex_range_is_stored_if_it_says_so_behind_the_range() {
        assert_eq!(lex_range_stored(&words("ZRANGESTORE d s [a [b bylex LIMIT 0 1")), Some((1, 2)));
        assert_eq!(lex_range_stored(&words("ZRANGESTORE BYLEX BYLEX 0 1 BYSCORE")), None);
        assert_eq!(lex_range_stored(&words("ZRANGESTORE d s")), None);
    }

    #[test]
    fn payloads_of_other_versions_are_told_by_their_end() {
        let version = |number: u16| {
            let payload = [b"value".as_slice(), &number.to_le_bytes(), b"checksum"].concat();
            foreign_payload(&[b"RESTORE", b"k", b"0", &payload])
        };
        assert_eq!([1, 11, 80].map(version), [None; 3]);
        assert_eq!([0, 12, 79, 81, 222].map(version), [Some(3); 5]);
        assert_eq!(foreign_payload(&words("RESTORE k 0 short")), None);
    }
}
