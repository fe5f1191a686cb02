//! The slots of a Valkey cluster that a shard serves, in the one form in which module and log service write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many slots a Valkey cluster has: they are numbered from 0 up to one less.
pub const SLOT_COUNT: u16 = 16_384;

/// A set of slots. As text: ascending ranges with commas between them, `0-5460,7000,8000-8191`, first and last slot inclusive. Two ranges
/// neither overlap nor touch, and a range of one slot is its number alone, so each set has one text. That of no slots is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotRanges(Vec<SlotRange>);

/// Slots that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotRange {
    /// The first of them.
    pub first: u16,
    /// The last of them, inclusive.
    pub last: u16,
}

impl SlotRanges {
    /// The set of these slots, in any order. Those that no cluster has are left out.
    pub fn of(slots: impl IntoIterator<Item = u16>) -> Self {
        let mut has = vec![false; usize::from(SLOT_COUNT)];
        for slot in slots {
            if let Some(has) = has.get_mut(usize::from(slot)) {
                *has = true;
            }
        }
        let mut ranges: Vec<SlotRange> = Vec::new();
        for slot in (0..SLOT_COUNT).filter(|slot| has[usize::from(*slot)]) {
            match ranges.last_mut().filter(|range| range.last + 1 == slot) {
                Some(range) => range.last = slot,
                None => ranges.push(SlotRange { first: slot, last: slot }),
            }
        }
        SlotRanges(ranges)
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> &[SlotRange] {
        &self.0
    }

    /// All slots, ascending.
    pub fn slots(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|range| range.first..=range.last)
    }

    /// Whether `slot` is one of them.
    pub fn contains(&self, slot: u16) -> bool {
        let after = self.0.partition_point(|range| range.first <= slot);
        self.0[..after].last().is_some_and(|range| slot <= range.last)
    }

    /// How many slots there are.
    pub fn count(&self) -> u16 {
        self.0.iter().map(|range| range.last - range.first + 1).sum()
    }

    /// The slots of both.
    #[must_use]
    pub fn union(&self, other: &SlotRanges) -> Self {
        SlotRanges::of(self.slots().chain(other.slots()))
    }

    /// Its slots without those of `other`.
    #[must_use]
    pub fn without(&self, other: &SlotRanges) -> Self {
        SlotRanges::of(self.slots().filter(|slot| !other.contains(*slot)))
    }

    /// Whether all slots of `other` are among them.
    pub fn contains_all(&self, other: &SlotRanges) -> bool {
        other.slots().all(|slot| self.contains(slot))
    }

    /// Whether a slot of `other` is among them.
    pub fn overlaps(&self, other: &SlotRanges) -> bool {
        other.slots().any(|slot| self.contains(slot))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The text is not that of a set of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotSlots {
    /// The first range that is wrong.
    range: String,
}

/// Most bytes of a range that are shown. No right one is longer.
const SHOWN_RANGE_BYTES: usize = 16;

impl NotSlots {
    fn at(range: &str) -> Self {
        NotSlots {
            range: range.bytes().take(SHOWN_RANGE_BYTES).flat_map(std::ascii::escape_default).map(char::from).collect(),
        }
    }
}

impl fmt::Display for NotSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' does not fit: give ascending ranges of slots that neither overlap nor touch, each slot 0 to {}, as in 0-5460,7000,8000-8191",
            self.range,
            SLOT_COUNT - 1
        )
    }
}

impl std::error::Error for NotSlots {}

impl FromStr for SlotRanges {
    type Err = NotSlots;

    /// Reads the text that [`fmt::Display`] writes, and no other.
    fn from_str(text: &str) -> Result<Self, NotSlots> {
        let mut ranges: Vec<SlotRange> = Vec::new();
        if text.is_empty() {
            return Ok(SlotRanges(ranges));
        }
        for part in text.split(',') {
            let wrong = || NotSlots::at(part);
            let range = SlotRange::read(part).ok_or_else(wrong)?;
            // One slot at least lies between two ranges.
            if ranges.last().is_some_and(|before| range.first <= before.last + 1) {
                return Err(wrong());
            }
            ranges.push(range);
        }
        Ok(SlotRanges(ranges))
    }
}

impl SlotRange {
    fn read(text: &str) -> Option<Self> {
        let range = match text.split_once('-') {
            Some((first, last)) => SlotRange { first: slot(first)?, last: slot(last)? },
            None => SlotRange { first: slot(text)?, last: slot(text)? },
        };
        let is_alone = range.first == range.last;
        (range.first <= range.last && is_alone != text.contains('-')).then_some(range)
    }
}

/// The slot of that number, which has no sign and no zeros before it.
fn slot(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|slot| is_plain && *slot < SLOT_COUNT)
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl fmt::Display for SlotRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

impl Serialize for SlotRanges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SlotRanges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether `id` has the form of a node's id in a Valkey cluster: 40 lower-case hexadecimal digits.
pub fn is_valid_cluster_node_id(id: &str) -> bool {
    is_forty_digits(id)
}

/// Whether `job` has the form in which a server names a migration of slots: 40 lower-case hexadecimal digits.
pub fn is_valid_slot_job(job: &str) -> bool {
    is_forty_digits(job)
}

fn is_forty_digits(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_has_one_text_and_no_other_is_read() {
        for good in ["", "0", "16383", "0-16383", "0-5460,7000,8000-8191", "0,2,4-5", "1-2,4"] {
            let ranges: SlotRanges = good.parse().expect(good);
            assert_eq!(ranges.to_string(), good);
        }
        for bad in [
            ",",
            "0,",
            ",0",
            "0,,2",
            " 0",
            "0 ",
            "0-",
            "-0",
            "-",
            "0-0",
            "5-4",
            "00",
            "05",
            "+5",
            "5-+6",
            "0-05",
            "16384",
            "0-16384",
            "65536",
            "99999999999",
            "0,0",
            "0,1",
            "0-5,6",
            "0-5,5-7",
            "0-5,3",
            "7,0",
            "0-1-2",
            "x",
            "0;2",
            "0\n",
            "٣",
        ] {
            assert!(bad.parse::<SlotRanges>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_briefly() {
        let error = "0-5,6-x\n".parse::<SlotRanges>().expect_err("refused").to_string();
        assert!(error.starts_with(r"'6-x\n' does not fit: give ascending ranges"), "{error}");
        let error = "9".repeat(5000).parse::<SlotRanges>().expect_err("refused").to_string();
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn any_text_is_that_of_a_set_or_none() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            allocation::within(8 * text.len() + 1024, || {
                if let Ok(ranges) = text.parse::<SlotRanges>() {
                    assert_eq!(ranges.to_string(), text);
                    assert_eq!(usize::from(ranges.count()), ranges.slots().count());
                    assert!(ranges.slots().all(|slot| slot < SLOT_COUNT));
                }
            });
        });
    }

    #[test]
    fn any_set_survives_its_own_text() {
        // Numbers near each other, so that ranges come about, and some that no cluster has.
        bolero::check!().with_type::<(u16, Vec<u8>)>().for_each(|(from, steps)| {
            let slots: Vec<u16> = steps
                .iter()
                .scan(*from, |slot, step| Some(std::mem::replace(slot, slot.saturating_add(u16::from(step % 4)))))
                .collect();
            let ranges = SlotRanges::of(slots.iter().rev().copied());
            let mut sorted: Vec<u16> = slots.into_iter().filter(|slot| *slot < SLOT_COUNT).collect();
            sorted.dedup();
            assert_eq!(ranges.slots().collect::<Vec<_>>(), sorted);
            assert_eq!(ranges.to_string().parse::<SlotRanges>(), Ok(ranges.clone()));
            assert_eq!(usize::from(ranges.count()), sorted.len());
            assert_eq!(ranges.is_empty(), sorted.is_empty());
            for slot in [0, *from, from.saturating_add(1), SLOT_COUNT - 1, SLOT_COUNT] {
                assert_eq!(ranges.contains(slot), sorted.binary_search(&slot).is_ok(), "{slot} in {ranges}");
            }
            let (odd, even): (Vec<u16>, Vec<u16>) = sorted.iter().partition(|slot| *slot % 2 == 1);
            let (odd, even) = (SlotRanges::of(odd), SlotRanges::of(even));
            assert_eq!(odd.union(&even), ranges);
            assert_eq!((ranges.without(&odd), even.without(&odd)), (even.clone(), even.clone()));
            assert!(ranges.contains_all(&even) && ranges.contains_all(&SlotRanges::default()));
            assert_eq!((even.contains_all(&ranges), ranges.overlaps(&odd)), (odd.is_empty(), !odd.is_empty()));
            assert!(!odd.overlaps(&even));
        });
    }

    #[test]
    fn all_slots_are_one_range_and_every_other_one_has_the_longest_text() {
        let all = SlotRanges::of(0..=u16::MAX);
        assert_eq!((all.to_string().as_str(), all.count()), ("0-16383", SLOT_COUNT));
        let every_other = SlotRanges::of((0..SLOT_COUNT).step_by(2));
        assert_eq!(every_other.ranges().len(), 8192);
        assert_eq!(every_other.to_string().parse(), Ok(every_other));
    }
}
