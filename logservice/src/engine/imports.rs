//! Which imports of slots are open at a place of the stream. An import begins with `CLUSTER SYNCSLOTS ESTABLISH` and ends with `CLUSTER
//! SYNCSLOTS FINISH` of the same name, or when another leader begins to write, who ends all of them. Between these the data holds a part of
//! the slots, which are another shard's still.

use std::fmt;

use durability_protocol::{Grammar, RespLimits, RespParser, SlotRanges};

/// Most imports that are looked at side by side. A server takes part in fewer.
const MAX_OPEN: usize = 256;
/// The longest command of a migration, and its most arguments: it names up to 8,192 ranges of slots.
pub(super) const MAX_COMMAND_BYTES: usize = 512 << 10;
const LIMITS: RespLimits =
    RespLimits { items: 32 << 10, item_bytes: MAX_COMMAND_BYTES, frame_bytes: MAX_COMMAND_BYTES };

/// An import of slots that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenImport {
    /// The server's name of the migration.
    pub job: String,
    /// The slots.
    pub slots: SlotRanges,
    /// Where it begins in the stream: nothing of it is before that offset.
    pub since: u64,
}

impl fmt::Display for OpenImport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slots {} by job {} since offset {}", self.slots, self.job, self.since)
    }
}

/// The imports that are open, as the stream passes.
#[derive(Debug, Clone, Default)]
pub struct Imports {
    open: Vec<OpenImport>,
    /// The first offsets of leaders.
    epochs: Vec<u64>,
}

impl Imports {
    /// None is open. Leaders begin to write at `epochs`.
    pub fn new(epochs: Vec<u64>) -> Self {
        Imports { open: Vec::new(), epochs }
    }

    /// Leaders begin to write there, too.
    pub fn add_epochs(&mut self, epochs: Vec<u64>) {
        self.epochs.extend(epochs);
    }

    /// Those that are open at `offset`, the oldest first. Everything before it has passed.
    pub fn open_at(&self, offset: u64) -> impl Iterator<Item = &OpenImport> {
        let is_ended =
            move |import: &OpenImport| self.epochs.iter().any(|&epoch| import.since < epoch && epoch <= offset);
        self.open.iter().filter(move |import| !is_ended(import))
    }

    /// The last place up to `offset` at which none is open, given what has passed.
    pub fn clear_until(&self, offset: u64) -> u64 {
        self.open_at(offset).map(|import| import.since).min().unwrap_or(offset)
    }

    /// A whole command `CLUSTER SYNCSLOTS` that begins at `offset` has passed.
    pub fn passed(&mut self, command: &[u8], offset: u64) {
        let mut parser = RespParser::new(Grammar::Commands);
        if !matches!(parser.next(command, &LIMITS), Ok(Some(_))) {
            return;
        }
        let words: Vec<&[u8]> = parser.items().iter().map(|place| &command[place.clone()]).collect();
        let Some(step) = words.get(2) else { return };
        let Some(job) = after(&words, "NAME").and_then(|at| words.get(at)) else { return };
        let job = String::from_utf8_lossy(&job[..job.len().min(64)]).into_owned();
        if step.eq_ignore_ascii_case(b"FINISH") {
            self.open.retain(|import| import.job != job);
        } else if step.eq_ignore_ascii_case(b"ESTABLISH") {
            let still: Vec<OpenImport> = self.open_at(offset).filter(|import| import.job != job).cloned().collect();
            self.open = still;
            if self.open.len() < MAX_OPEN {
                self.open.push(OpenImport { job, slots: slots(&words), since: offset });
            }
        }
    }
}

/// Where the value of an option is. The server takes them in any order.
fn after(words: &[&[u8]], option: &str) -> Option<usize> {
    let at = words.iter().skip(3).position(|word| word.eq_ignore_ascii_case(option.as_bytes()))?;
    Some(3 + at + 1)
}

/// The slots that follow `SLOTSRANGE`: first and last ones in turn, up to what is no number.
fn slots(words: &[&[u8]]) -> SlotRanges {
    let from = after(words, "SLOTSRANGE").unwrap_or(words.len());
    let numbers = words[from..].iter().map_while(|word| std::str::from_utf8(word).ok()?.parse::<u16>().ok());
    let numbers: Vec<u16> = numbers.collect();
    SlotRanges::of(numbers.chunks_exact(2).flat_map(|range| range[0]..=range[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &str) -> Vec<u8> {
        let words: Vec<&str> = words.split(' ').collect();
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        words.iter().for_each(|word| out.extend(format!("${}\r\n{word}\r\n", word.len()).bytes()));
        out
    }

    fn jobs(imports: &Imports, offset: u64) -> Vec<&str> {
        imports.open_at(offset).map(|import| import.job.as_str()).collect()
    }

    #[test]
    fn an_import_is_open_until_it_finishes_or_another_leader_writes() {
        let mut imports = Imports::new(vec![0, 500]);
        imports.passed(&command("CLUSTER SYNCSLOTS ESTABLISH SOURCE x NAME a SLOTSRANGE 0 5 7 7"), 100);
        imports.passed(&command("cluster syncslots establish slotsrange 9 9 name b"), 200);
        imports.passed(&command("CLUSTER SYNCSLOTS SNAPSHOT-EOF"), 250);
        assert_eq!((jobs(&imports, 300), imports.clear_until(300)), (vec!["a", "b"], 100));
        let open: Vec<String> = imports.open_at(300).map(ToString::to_string).collect();
        assert_eq!(open, ["slots 0-5,7 by job a since offset 100", "slots 9 by job b since offset 200"]);
        imports.passed(&command("CLUSTER SYNCSLOTS FINISH STATE FAILED NAME a MESSAGE why"), 300);
        imports.passed(&command("CLUSTER SYNCSLOTS FINISH STATE SUCCESS NAME other"), 350);
        assert_eq!((jobs(&imports, 499), imports.clear_until(499)), (vec!["b"], 200));
        assert_eq!((jobs(&imports, 500), imports.clear_until(500)), (vec![], 500));
        imports.passed(&command("CLUSTER SYNCSLOTS ESTABLISH NAME c SLOTSRANGE 1 1"), 500);
        assert_eq!(jobs(&imports, 900), ["c"]);
        imports.add_epochs(vec![700]);
        assert_eq!((jobs(&imports, 699), jobs(&imports, 700)), (vec!["c"], vec![]));
    }

    #[test]
    fn any_command_is_taken_and_nothing_grows_without_bound() {
        let mut imports = Imports::default();
        for number in 0..2 * MAX_OPEN as u64 {
            imports.passed(&command(&format!("CLUSTER SYNCSLOTS ESTABLISH NAME n{number} SLOTSRANGE 0 0")), number);
        }
        assert_eq!(imports.open.len(), MAX_OPEN);
        bolero::check!().with_type::<(u8, Vec<Vec<u8>>)>().for_each(|(kind, words)| {
            let start = [&b"CLUSTER"[..], b"SYNCSLOTS", if kind % 2 == 0 { b"ESTABLISH" } else { b"FINISH" }];
            let options = [&b"NAME"[..], b"a", b"SLOTSRANGE", b"0", b"99999"];
            let mut all: Vec<&[u8]> = start.into_iter().chain(words.iter().map(Vec::as_slice)).collect();
            all.extend(&options[..usize::from(kind >> 1) % 6]);
            let mut command = format!("*{}\r\n", all.len()).into_bytes();
            for word in all {
                command.extend(format!("${}\r\n", word.len()).bytes());
                command.extend(word);
                command.extend(b"\r\n");
            }
            let mut imports = Imports::default();
            imports.passed(&command, 7);
            assert!(imports.clear_until(9) == 7 || imports.clear_until(9) == 9);
        });
    }
}
