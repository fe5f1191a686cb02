//! Running checksums after some of the last entries that were applied. Services compare them: equal index, equal prefix.

use std::collections::VecDeque;

use crate::replica::copy::Position;

/// Every so many entries there is a mark.
const EVERY: u64 = 256;
/// The most marks: a service that is up to 65536 entries behind finds one that it has.
const MOST: usize = 256;

/// Indexes, and the running checksums after the entries there.
#[derive(Debug, Default)]
pub struct Marks(VecDeque<(u64, u32)>);

impl Marks {
    /// An entry was applied.
    pub fn note(&mut self, position: Position) {
        if position.index.is_multiple_of(EVERY) {
            if self.0.len() == MOST {
                self.0.pop_front();
            }
            self.0.push_back((position.index, position.checksum));
        }
    }

    /// All of them, and the one after the last entry.
    pub fn list(&self, last: Position) -> Vec<(u64, u32)> {
        let known = self.0.iter().copied().filter(|(index, _)| *index < last.index);
        known.chain([(last.index, last.checksum)]).collect()
    }

    /// After a base that came from another service, what was known before tells nothing.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_marks_are_kept_with_the_last_entry() {
        let mut marks = Marks::default();
        let position = |index| Position { index, checksum: index as u32 * 3, ..Position::default() };
        (1..=EVERY * 300 + 7).for_each(|index| marks.note(position(index)));
        let list = marks.list(position(EVERY * 300 + 7));
        assert_eq!(list.len(), MOST + 1);
        assert_eq!((list[0].0, list[MOST]), (EVERY * 45, ((EVERY * 300 + 7), (EVERY * 300 + 7) as u32 * 3)));
    }
}
