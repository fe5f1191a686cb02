//! Picks keys: of each database in proportion to its share of all keys, beginning at a random place.

use std::collections::VecDeque;

use super::{Value, MAX_KEY_BYTES};

/// How many keys one `SCAN` reads.
pub const SCAN_COUNT: u64 = 10;

/// Random bits of the first cursor. Enough for every place of a large table.
const CURSOR_MASK: u64 = (1 << 40) - 1;

/// Picks keys. Hashes spread names over a table, so consecutive keys there are as good as random ones. Picking as many keys as there are
/// gives each of them.
#[derive(Debug, Default)]
pub struct Picker {
    shares: Vec<Share>,
    found: VecDeque<(u32, Vec<u8>)>,
}

#[derive(Debug)]
struct Share {
    database: u32,
    left: u64,
    cursor: u64,
    /// It began in the middle, and has not reached the end yet.
    goes_round: bool,
}

/// What a picker needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// A picked key: the number of its database, and its name.
    Key(u32, Vec<u8>),
    /// The reply to `SCAN cursor COUNT` [`SCAN_COUNT`] in that database, for [`Picker::scanned`].
    Scan {
        /// The database.
        database: u32,
        /// The cursor.
        cursor: u64,
    },
    /// There is nothing left to pick.
    Done,
}

impl Picker {
    /// Picks `keys` keys of databases with the given numbers of keys.
    pub fn new(keys: u64, databases: &[(u32, u64)], mut random: impl FnMut() -> u64) -> Self {
        let total: u64 = databases.iter().map(|(_, size)| size).sum();
        let share = |&(database, size): &(u32, u64)| {
            let part = (u128::from(keys) * u128::from(size)).div_ceil(u128::from(total.max(1)));
            let left = u64::try_from(part).unwrap_or(u64::MAX).min(size);
            let cursor = if left < size { random() & CURSOR_MASK } else { 0 };
            Share { database, left, cursor, goes_round: cursor != 0 }
        };
        // The last is taken first.
        let shares = databases.iter().rev().map(share).filter(|share| share.left > 0).collect();
        Picker { shares, ..Picker::default() }
    }

    /// The next key, or what is needed to pick it.
    pub fn pick(&mut self) -> Pick {
        if let Some((database, key)) = self.found.pop_front() {
            return Pick::Key(database, key);
        }
        match self.shares.last() {
            Some(share) => Pick::Scan { database: share.database, cursor: share.cursor },
            None => Pick::Done,
        }
    }

    /// Takes the reply to [`Pick::Scan`].
    pub fn scanned(&mut self, cursor: u64, keys: impl IntoIterator<Item = Vec<u8>>) {
        let Some(share) = self.shares.last_mut() else { return };
        for key in keys {
            if share.left == 0 {
                break;
            }
            share.left -= 1;
            if key.len() <= MAX_KEY_BYTES {
                self.found.push_back((share.database, key));
            }
        }
        share.cursor = cursor;
        let is_over = cursor == 0 && !std::mem::take(&mut share.goes_round);
        if share.left == 0 || is_over {
            self.shares.pop();
        }
    }
}

/// The cursor and the keys in a reply to `SCAN`.
///
/// # Errors
/// It is no such reply.
pub fn read_scan(reply: &Value) -> Result<(u64, Vec<Vec<u8>>), String> {
    let [Value::Bytes(cursor), keys] = reply.items()? else { return Err("SCAN has not answered two parts".to_owned()) };
    let cursor = std::str::from_utf8(cursor).ok().and_then(|cursor| cursor.parse().ok());
    let keys = keys.items()?.iter().filter_map(|key| match key {
        Value::Bytes(key) => Some(key.clone()),
        _ => None,
    });
    Ok((cursor.ok_or_else(|| "SCAN has answered no cursor".to_owned())?, keys.collect()))
}

/// The number of keys of each database that has any, from `INFO keyspace`: lines such as `db0:keys=5,expires=0,avg_ttl=0`.
pub fn parse_keyspace(info: &str) -> Vec<(u32, u64)> {
    let line = |line: &str| {
        let (database, counts) = line.trim_end().strip_prefix("db")?.split_once(':')?;
        let keys = counts.split(',').find_map(|count| count.strip_prefix("keys="))?;
        Some((database.parse().ok()?, keys.parse().ok()?))
    };
    info.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables whose cursor is the place, three keys at a time.
    fn pick_all(mut picker: Picker, sizes: &[(u32, u64)]) -> Vec<(u32, Vec<u8>)> {
        let mut picked = Vec::new();
        loop {
            match picker.pick() {
                Pick::Key(database, key) => picked.push((database, key)),
                Pick::Done => return picked,
                Pick::Scan { database, cursor } => {
                    let size = sizes.iter().find(|(number, _)| *number == database).expect("it was named").1;
                    let from = cursor % size;
                    let to = (from + 3).min(size);
                    let keys = (from..to).map(|key| key.to_string().into_bytes()).collect::<Vec<_>>();
                    picker.scanned(if to == size { 0 } else { to }, keys);
                }
            }
        }
    }

    #[test]
    fn each_database_gives_its_share() {
        let sizes = [(0, 1000), (7, 10), (9, 0)];
        let picked = pick_all(Picker::new(101, &sizes, || 990), &sizes);
        let of = |number| picked.iter().filter(|(database, _)| *database == number).count();
        assert_eq!((of(0), of(7), of(9)), (100, 1, 0));
    }

    #[test]
    fn as_many_as_there_are_are_all_there_are_and_each_once() {
        let sizes = [(0, 50), (3, 4)];
        let mut picked = pick_all(Picker::new(1000, &sizes, || unreachable!("nothing is drawn")), &sizes);
        picked.sort();
        picked.dedup();
        assert_eq!(picked.len(), 54);
    }

    #[test]
    fn a_picker_goes_round_once_and_ends() {
        let sizes = [(0, 10)];
        let picked = pick_all(Picker::new(9, &sizes, || 8), &sizes);
        assert_eq!(picked.len(), 9);
        assert_eq!(picked[0].1, b"8");
        // A table that has become empty meanwhile.
        let mut picker = Picker::new(9, &sizes, || 8);
        for _ in 0..2 {
            assert!(matches!(picker.pick(), Pick::Scan { .. }));
            picker.scanned(0, []);
        }
        assert_eq!(picker.pick(), Pick::Done);
    }

    #[test]
    fn keys_are_counted_database_by_database() {
        let info = "# Keyspace\r\ndb0:keys=5,expires=1,avg_ttl=7\r\ndb12:keys=1,expires=0,avg_ttl=0\r\n";
        assert_eq!(parse_keyspace(info), [(0, 5), (12, 1)]);
        assert_eq!(parse_keyspace("# Keyspace\r\n"), []);
    }

    #[test]
    fn an_answer_of_another_form_is_no_scan() {
        let text = |text: &str| Value::Bytes(text.as_bytes().to_vec());
        let scan =
            |cursor: &str| read_scan(&Value::Array(vec![text(cursor), Value::Array(vec![text("k"), Value::Nil])]));
        assert_eq!(scan("18446744073709551615"), Ok((u64::MAX, vec![b"k".to_vec()])), "all 64 bits");
        assert!(scan("x").is_err() && read_scan(&text("0")).is_err());
    }

    #[test]
    fn names_that_are_too_long_are_left_out() {
        let mut picker = Picker::new(2, &[(0, 2)], || 0);
        picker.pick();
        picker.scanned(0, [vec![0; MAX_KEY_BYTES + 1], vec![1]]);
        assert_eq!((picker.pick(), picker.pick()), (Pick::Key(0, vec![1]), Pick::Done));
    }
}
