//! The names of groups. The group of a shard has the shard's name, unless a shard of that cluster was dropped before: then it says after how
//! many drops it was made, so that no two shards that had the same name one after the other have the same group.

/// Stands between the name of a shard and how many shards had been dropped when it was made. In no name of a shard.
const MADE_AFTER: char = '#';

/// The group of the shard that was made when so many had been dropped.
pub fn group_of(shard: &str, drops: u64) -> String {
    match drops {
        0 => shard.to_owned(),
        drops => format!("{shard}{MADE_AFTER}{drops}"),
    }
}

/// The shard of a group.
pub fn shard_of(group: &str) -> &str {
    group.split_once(MADE_AFTER).map_or(group, |(shard, _)| shard)
}

/// How many shards had been dropped when the shard of a group was made; none if that is no name of a group.
pub fn made_after(group: &str) -> Option<u64> {
    match group.split_once(MADE_AFTER) {
        None => Some(0),
        Some((_, drops)) => drops.parse().ok().filter(|&drops| drops > 0 && group_of(shard_of(group), drops) == group),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_says_after_how_many_drops_its_shard_was_made() {
        for (group, shard, drops) in
            [("s1", "s1", Some(0)), ("s1#7", "s1", Some(7)), ("s1#07", "s1", None), ("s1#0", "s1", None)]
        {
            assert_eq!((shard_of(group), made_after(group)), (shard, drops), "{group}");
        }
        assert_eq!((group_of("a:b", 0), group_of("a:b", 12)), ("a:b".to_owned(), "a:b#12".to_owned()));
    }
}
