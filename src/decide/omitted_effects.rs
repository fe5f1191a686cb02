//! Commands whose effect the server does not put into the replication stream as a whole. `docs/upstream.md` describes each.

/// What the server forgets of a command's effect when it puts the command into the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omits {
    /// Nothing.
    Nothing,
    /// That fields which the command names or copies have expired: a replica, which lets nothing expire by itself, still has them.
    ExpiredFields,
    /// That the command made a consumer, if it gave that consumer no entry; and that XREADGROUP delivered pending entries again.
    Consumers,
    /// That a string was made or became longer before everything failed: OVERFLOW FAIL. The command counts as one that wrote nothing.
    FailedBitfield,
    /// How SORT found what it stores by looking at other keys: their fields may have expired, which a replica would sort by, or fail on.
    SortPatterns,
    /// That HSETEX KEEPTTL was given all fields of a hash, and they had expired: it deletes them one by one at a replica, with the last
    /// one the key, and so its time to live.
    KeyExpiry,
    /// That the condition of MSETEX XX was met, although keys that it names are deleted before.
    MetCondition,
    /// In which order members of different scores are searched, which is by chance where a range is given by members.
    Order,
    /// That this server takes values that are serialized in versions which others may refuse.
    Version,
}

impl Omits {
    /// What the server forgets of the command with that full name, in lower case.
    pub fn of(name: &str) -> Omits {
        match name {
            "hpersist" | "hexpire" | "hpexpire" | "hexpireat" | "hpexpireat" | "hdel" | "hgetdel" | "copy" => {
                Omits::ExpiredFields
            }
            "xreadgroup" | "xclaim" | "xautoclaim" | "xgroup|createconsumer" => Omits::Consumers,
            "bitfield" => Omits::FailedBitfield,
            "sort" => Omits::SortPatterns,
            "hsetex" => Omits::KeyExpiry,
            "msetex" => Omits::MetCondition,
            "zrangestore" => Omits::Order,
            "restore" | "restore-asking" => Omits::Version,
            _ => Omits::Nothing,
        }
    }
}

/// Whether that command's effect may be missing from the stream: it runs scripts, or is one of [`Omits`]. `name` may be in any case. In async
/// mode nothing else needs an event for each command. Compares lengths first, as this runs before every command.
pub fn is_of_interest(name: &[u8]) -> bool {
    let names: &[&[u8]] = match (name.len(), name.first().map(u8::to_ascii_lowercase)) {
        (4, Some(b'e')) => &[b"eval"],
        (4, Some(b'h')) => &[b"hdel"],
        (4, Some(b'c')) => &[b"copy"],
        (4, Some(b's')) => &[b"sort"],
        (5, Some(b'f')) => &[b"fcall"],
        (6, Some(b'x')) => &[b"xclaim"],
        (6, Some(b'h')) => &[b"hsetex"],
        (6, Some(b'm')) => &[b"msetex"],
        (7, Some(b'e')) => &[b"evalsha"],
        (7, Some(b'h')) => &[b"hexpire", b"hgetdel"],
        (7, Some(b'r')) => &[b"restore"],
        (8, Some(b'h')) => &[b"hpersist", b"hpexpire"],
        (8, Some(b'b')) => &[b"bitfield"],
        (9, Some(b'h')) => &[b"hexpireat"],
        (10, Some(b'h')) => &[b"hpexpireat"],
        (10, Some(b'x')) => &[b"xreadgroup", b"xautoclaim"],
        (11, Some(b'z')) => &[b"zrangestore"],
        (14, Some(b'r')) => &[b"restore-asking"],
        _ => return false,
    };
    names.iter().any(|one| name.eq_ignore_ascii_case(one))
}

/// Another module may write while it is loaded, and the server then puts this command into the stream.
pub fn loads_module<'a>(name: &[u8], first: impl FnOnce() -> &'a [u8]) -> bool {
    name.len() == 6 && name.eq_ignore_ascii_case(b"MODULE") && {
        let first = first();
        first.eq_ignore_ascii_case(b"LOAD") || first.eq_ignore_ascii_case(b"LOADEX")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_a_module_is_a_cause_and_listing_them_is_none() {
        let loads = |name: &'static str, first: &'static str| loads_module(name.as_bytes(), || first.as_bytes());
        assert!(loads("module", "LOAD") && loads("MODULE", "loadex"));
        assert!(!loads("MODULE", "LIST") && !loads("MODULE", "") && !loads("msetex", "LOAD"));
    }

    #[test]
    fn what_is_of_interest_is_known_by_any_case_and_nothing_else_is() {
        for name in [
            "eval",
            "FCALL",
            "EvalSha",
            "Sort",
            "hsetex",
            "MSETEX",
            "hexpire",
            "HPERSIST",
            "hpexpire",
            "hexpireat",
            "hpexpireat",
            "Restore",
            "zrangestore",
        ] {
            assert!(is_of_interest(name.as_bytes()), "{name}");
        }
        for name in ["xreadgroup", "XAUTOCLAIM", "xclaim"] {
            assert!(is_of_interest(name.as_bytes()) && Omits::of(&name.to_ascii_lowercase()) == Omits::Consumers);
        }
        for name in ["set", "exec", "hget", "evict", "hgetall", "", "eval_ro"] {
            assert!(!is_of_interest(name.as_bytes()), "{name}");
        }
    }
}
