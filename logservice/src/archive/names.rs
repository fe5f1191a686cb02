//! Names of objects. They say what is needed to find a moment, so that a list of names tells nearly all about an archive.

/// A piece of the log: its records from `start` to `end`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceName {
    /// The generation of the log: see [`Manifest::generation`](crate::store::Manifest::generation).
    pub generation: u64,
    /// Position of its first byte.
    pub start: u64,
    /// Its end (exclusive).
    pub end: u64,
    /// The earliest time of its records, in milliseconds since 1970.
    pub first_ms: u64,
    /// The latest time of its records, in milliseconds since 1970.
    pub last_ms: u64,
}

impl PieceName {
    /// The name of its object, without its folder. Names sort as generations and offsets do.
    pub fn object(&self) -> String {
        let PieceName { generation, start, end, first_ms, last_ms } = self;
        format!("{generation:06}-{start:020}-{end:020}-{first_ms:013}-{last_ms:013}.log")
    }

    /// The piece that is named so; none if that is no such name.
    pub fn parse(object: &str) -> Option<Self> {
        let [generation, start, end, first_ms, last_ms] = numbers(object.strip_suffix(".log")?)?;
        let name = PieceName { generation, start, end, first_ms, last_ms };
        (start < end && first_ms <= last_ms && name.object() == object).then_some(name)
    }

    /// What sorts before the pieces of a generation that begin at `start` or later, and after all others.
    pub fn before(generation: u64, start: u64) -> String {
        format!("{generation:06}-{start:020}")
    }
}

/// A snapshot in the archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotName {
    /// The generation of the log that it is of.
    pub generation: u64,
    /// Where it stands.
    pub offset: u64,
    /// When it was recorded, in milliseconds since 1970.
    pub time_ms: u64,
    /// Which one at that offset; none is the beginning of a log that began without data.
    pub number: Option<u32>,
}

/// In the place of a number.
const BEGINNING: &str = "beginning";

impl SnapshotName {
    /// The name of a recorded snapshot; none if its file is named in a way that this build does not know.
    pub fn of(generation: u64, offset: u64, time_ms: u64, file: &str) -> Option<Self> {
        let (_, name) = file.rsplit_once('/')?;
        let (stands_at, number) = name.strip_suffix(".rdb")?.split_once('-')?;
        let number = u32::from_str_radix(number, 16).ok()?;
        (stands_at.parse() == Ok(offset)).then_some(SnapshotName { generation, offset, time_ms, number: Some(number) })
    }

    /// The name of its object, without its folder.
    pub fn object(&self) -> String {
        let SnapshotName { generation, offset, time_ms, number } = self;
        let number = number.map_or_else(|| BEGINNING.to_owned(), |number| format!("{number:08x}"));
        format!("{generation:06}-{offset:020}-{time_ms:013}-{number}.json")
    }

    /// The snapshot that is named so; none if that is no such name.
    pub fn parse(object: &str) -> Option<Self> {
        let (rest, number) = object.strip_suffix(".json")?.rsplit_once('-')?;
        let [generation, offset, time_ms] = numbers(rest)?;
        let number = match number {
            BEGINNING => None,
            number => Some(u32::from_str_radix(number, 16).ok()?),
        };
        let name = SnapshotName { generation, offset, time_ms, number };
        (name.object() == object).then_some(name)
    }

    /// The file of its RDB, below the place for snapshots; none if it has none. `place` is that of its log.
    pub fn file(&self, place: &str) -> Option<String> {
        Some(format!("{place}/{:020}-{:08x}.rdb", self.offset, self.number?))
    }
}

fn numbers<const COUNT: usize>(text: &str) -> Option<[u64; COUNT]> {
    let mut numbers = [0; COUNT];
    let mut parts = text.split('-');
    for number in &mut numbers {
        let part = parts.next()?;
        *number = part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_it_names_and_nothing_else_is_one() {
        let piece = PieceName { generation: 3, start: 100, end: 250, first_ms: 5, last_ms: 1_764_500_000_000 };
        assert_eq!(PieceName::parse(&piece.object()), Some(piece.clone()));
        assert!(PieceName::before(3, 100) < piece.object() && PieceName::before(3, 101) > piece.object());
        for wrong in ["", ".log", "1-2-3-4-5.log", &piece.object()[1..], &format!("{}x", piece.object())] {
            assert_eq!(PieceName::parse(wrong), None, "{wrong}");
        }
        let backwards = PieceName { end: 100, ..piece };
        assert_eq!(PieceName::parse(&backwards.object()), None);
        let file = "s1-abc/00000000000000000100-0000002a.rdb";
        let snapshot = SnapshotName::of(3, 100, 7, file).expect("a snapshot");
        assert_eq!(SnapshotName::parse(&snapshot.object()), Some(snapshot.clone()));
        assert_eq!(snapshot.file("s1-abc").as_deref(), Some(file));
        assert_eq!(SnapshotName::of(3, 101, 7, file), None);
        let beginning = SnapshotName { number: None, ..snapshot };
        assert_eq!(SnapshotName::parse(&beginning.object()), Some(beginning.clone()));
        assert_eq!(beginning.file("s1-abc"), None);
    }
}
