//! The stream as an engine is fed it: an engine is no node of a cluster and ends if it meets `CLUSTER SYNCSLOTS`, with which slots come to a
//! shard. The keys themselves come as plain commands. So each such command becomes one without effect that is as long.

use std::ops::Range;

use durability_protocol::{Logged, NotLogged, Scanner, Unfit};

use super::imports::{Imports, MAX_COMMAND_BYTES};

/// What the commands of slots that come begin with, after the number of arguments, in lower case.
const BEGINNING: &[u8] = b"$7\r\ncluster\r\n$9\r\nsyncslots\r\n";
/// The most digits of a number of arguments.
const MAX_DIGITS: usize = 18;

/// A part of what an engine is sent for a chunk of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// That part of the chunk.
    Of(Range<usize>),
    /// These bytes.
    Instead(Vec<u8>),
}

/// Passes a stream on, cut anywhere, and follows which imports are open.
#[derive(Debug)]
pub struct SlotStream {
    scanner: Scanner,
    imports: Imports,
    /// The beginning of a command that is replaced, or may be.
    held: Vec<u8>,
    /// The scanner is within a command that is passed on.
    is_passing: bool,
}

impl SlotStream {
    /// A stream that begins at `offset`, where a command does, and no import is open. Leaders begin to write at `epochs`.
    pub fn new(offset: u64, epochs: Vec<u64>) -> Self {
        SlotStream { scanner: Scanner::new(offset), imports: Imports::new(epochs), held: Vec::new(), is_passing: false }
    }

    /// Up to where everything was passed on (exclusive): what follows is the beginning of a command that may be replaced.
    pub fn passed_until(&self) -> u64 {
        self.scanner.offset() - self.held.len() as u64
    }

    /// Up to where it was scanned (exclusive).
    pub fn scanned_until(&self) -> u64 {
        self.scanner.offset()
    }

    /// The imports that were begun.
    pub fn imports(&self) -> &Imports {
        &self.imports
    }

    /// Leaders begin to write there, too.
    pub fn add_epochs(&mut self, epochs: Vec<u64>) {
        self.imports.add_epochs(epochs);
    }

    /// What to pass on for the bytes that follow, in order. `find` returns the result of [`is_logged`](durability_protocol::is_logged) for the
    /// command with that full name.
    ///
    /// # Errors
    /// From the offset in the error on, nothing may be applied. Then the stream must not be used again.
    pub fn pass(&mut self, chunk: &[u8], find: impl Fn(&str) -> Option<Logged>) -> Result<Vec<Piece>, NotLogged> {
        // An engine may not have them under that name.
        let find = |name: &str| match name {
            "cluster" => Some(Logged::BySubcommand),
            "cluster|syncslots" => Some(Logged::Yes),
            _ => find(name),
        };
        let (mut pieces, mut at) = (Vec::new(), 0);
        while at < chunk.len() {
            let begins = self.passed_until();
            let used = self.scanner.scan_command(&chunk[at..], find)?;
            let is_whole = self.scanner.is_between_commands();
            let (from, part) = (at, &chunk[at..at + used]);
            at += used;
            if self.is_passing {
                pass_on(&mut pieces, from..at);
                self.is_passing = !is_whole;
                continue;
            }
            let held = self.held.len();
            // A value may be long, and only the beginning decides.
            let room = (MAX_DIGITS + 3 + BEGINNING.len()).saturating_sub(held);
            self.held.extend_from_slice(&part[..part.len().min(room)]);
            match comes(&self.held) {
                Some(false) => {
                    let before = std::mem::take(&mut self.held);
                    if held > 0 {
                        pieces.push(Piece::Instead(before[..held].to_vec()));
                    }
                    pass_on(&mut pieces, from..at);
                    self.is_passing = !is_whole;
                }
                None if is_whole => {
                    // A short one.
                    let before = std::mem::take(&mut self.held);
                    if held > 0 {
                        pieces.push(Piece::Instead(before[..held].to_vec()));
                    }
                    pass_on(&mut pieces, from..at);
                }
                Some(true) | None => {
                    self.held.extend_from_slice(&part[part.len().min(room)..]);
                    if self.held.len() > MAX_COMMAND_BYTES {
                        return Err(NotLogged { offset: begins, what: Unfit::NoCommand });
                    }
                    if is_whole {
                        let command = std::mem::take(&mut self.held);
                        self.imports.passed(&command, begins);
                        pieces.push(Piece::Instead(without_effect(command.len())));
                    }
                }
            }
        }
        Ok(pieces)
    }
}

/// Adds a part of the chunk, which may follow the last one.
fn pass_on(pieces: &mut Vec<Piece>, part: Range<usize>) {
    match pieces.last_mut() {
        Some(Piece::Of(last)) if last.end == part.start => last.end = part.end,
        _ => pieces.push(Piece::Of(part)),
    }
}

/// Whether a command that begins with these bytes is one of slots that come; none if that is not to be told yet.
fn comes(beginning: &[u8]) -> Option<bool> {
    let count = beginning.iter().position(|&byte| byte == b'$')?;
    let rest = &beginning[count..];
    let compared = rest.len().min(BEGINNING.len());
    match rest[..compared].eq_ignore_ascii_case(&BEGINNING[..compared]) {
        false => Some(false),
        true => (compared == BEGINNING.len()).then_some(true),
    }
}

/// So many bytes that are a command without effect: a `PING` with as much behind it as it takes. No command of a migration is too short.
fn without_effect(bytes: usize) -> Vec<u8> {
    const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
    const ECHOED: &str = "*2\r\n$4\r\nPING\r\n$";
    for (before, bytes) in [(&b""[..], bytes), (PING, bytes.saturating_sub(PING.len()))] {
        let length = |digits: usize| bytes.checked_sub(ECHOED.len() + digits + 4);
        let fits = |digits: &usize| length(*digits).is_some_and(|length| length.to_string().len() == *digits);
        // A length of 9 needs one digit and 10 two: what lies between has no form, and gets another PING in front.
        if let Some(length) = (1..=MAX_DIGITS).find(fits).and_then(length) {
            let filling = ".".repeat(length);
            return [before, format!("{ECHOED}{length}\r\n{filling}\r\n").as_bytes()].concat();
        }
    }
    unreachable!("a command of a migration has more than {bytes} bytes")
}

#[cfg(test)]
mod tests {
    use durability_protocol::{Grammar, RespLimits, RespParser};

    use super::*;

    const LIMITS: RespLimits = RespLimits { items: 1 << 20, item_bytes: 1 << 20, frame_bytes: 1 << 20 };

    fn command(words: &[&str]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        words.iter().for_each(|word| out.extend(format!("${}\r\n{word}\r\n", word.len()).bytes()));
        out
    }

    fn find(name: &str) -> Option<Logged> {
        match name {
            "set" | "ping" | "clusterx" | "c" => Some(Logged::Yes),
            "cluster|setslot" => Some(Logged::Never),
            _ => None,
        }
    }

    /// What is passed on of a stream that is cut there, and what is held back at the end.
    fn passed(stream: &mut SlotStream, parts: &[&[u8]]) -> Result<Vec<u8>, NotLogged> {
        let mut out = Vec::new();
        for part in parts {
            for piece in stream.pass(part, find)? {
                match piece {
                    Piece::Of(range) => out.extend_from_slice(&part[range]),
                    Piece::Instead(bytes) => out.extend(bytes),
                }
            }
        }
        Ok(out)
    }

    fn names(mut stream: &[u8]) -> Vec<String> {
        let mut parser = RespParser::new(Grammar::Commands);
        let mut names = Vec::new();
        while let Some(length) = parser.next(stream, &LIMITS).expect("commands") {
            names.push(String::from_utf8_lossy(&stream[parser.items()[0].clone()]).into_owned());
            stream = &stream[length..];
        }
        assert!(stream.is_empty());
        names
    }

    #[test]
    fn commands_of_slots_that_come_are_replaced_wherever_the_stream_is_cut() {
        let establish = ["CLUSTER", "SYNCSLOTS", "ESTABLISH", "SOURCE", "x", "NAME", "a", "SLOTSRANGE", "0", "5"];
        let commands: [&[&str]; 8] = [
            &["SET", "k", "*3\r\n$7\r\nCLUSTER\r\n$9\r\nSYNCSLOTS\r\n$3\r\nACK\r\n"],
            &establish,
            &["clusterx", "SYNCSLOTS"],
            &["c"],
            &["Cluster", "SyncSlots", "ack"],
            &["SET", "CLUSTER", "SYNCSLOTS"],
            &["CLUSTER", "SYNCSLOTS", "FINISH", "STATE", "SUCCESS", "NAME", "a"],
            &["PING"],
        ];
        let bytes: Vec<u8> = commands.iter().flat_map(|words| command(words)).collect();
        let begins = 100 + command(commands[0]).len() as u64;
        for at in 0..=bytes.len() {
            let mut stream = SlotStream::new(100, Vec::new());
            let (before, after) = bytes.split_at(at);
            let mut out = passed(&mut stream, &[before]).expect("logged");
            assert_eq!(stream.passed_until(), 100 + out.len() as u64, "cut at {at}");
            out.extend(passed(&mut stream, &[after]).expect("logged"));
            assert_eq!(out.len(), bytes.len(), "cut at {at}");
            assert_eq!(names(&out), ["SET", "PING", "clusterx", "c", "PING", "SET", "PING", "PING"], "cut at {at}");
            assert!(out.starts_with(&command(commands[0])) && out.ends_with(&command(commands[7])));
            assert_eq!(stream.imports().open_at(u64::MAX).count(), 0);
        }
        let mut stream = SlotStream::new(100, Vec::new());
        let parts: Vec<&[u8]> = bytes.chunks(1).collect();
        let until_set = parts.len() - command(commands[6]).len() - command(commands[7]).len();
        passed(&mut stream, &parts[..until_set]).expect("logged");
        let open: Vec<_> =
            stream.imports().open_at(u64::MAX).map(|import| (import.job.as_str(), import.since)).collect();
        assert_eq!(open, [("a", begins)]);
    }

    #[test]
    fn other_commands_of_a_cluster_are_still_refused() {
        let set = command(&["SET", "k", "v"]);
        let bytes = [set.clone(), command(&["CLUSTER", "SETSLOT", "1", "STABLE"])].concat();
        let refused = passed(&mut SlotStream::new(7, Vec::new()), &[&bytes]).expect_err("refused");
        assert_eq!(
            refused,
            NotLogged { offset: 7 + set.len() as u64, what: Unfit::NotLogged("cluster|setslot".into()) }
        );
    }

    #[test]
    fn a_command_without_effect_has_any_length_from_that_of_the_shortest_on() {
        let shortest = command(&["CLUSTER", "SYNCSLOTS"]).len();
        for bytes in (shortest..3000).chain(10_000..10_060).chain(100_000..100_060) {
            let out = without_effect(bytes);
            assert_eq!(out.len(), bytes);
            assert!(names(&out).iter().all(|name| name == "PING"), "{bytes}");
        }
    }

    #[test]
    fn a_command_that_is_too_long_to_be_one_of_a_migration_is_refused() {
        let long = ".".repeat(MAX_COMMAND_BYTES);
        let bytes = command(&["CLUSTER", "SYNCSLOTS", "ESTABLISH", &long]);
        let mut stream = SlotStream::new(7, Vec::new());
        let refused = passed(&mut stream, &bytes.chunks(1000).collect::<Vec<_>>()).expect_err("refused");
        assert_eq!(refused, NotLogged { offset: 7, what: Unfit::NoCommand });
    }

    #[test]
    fn any_stream_keeps_its_length_or_is_refused() {
        bolero::check!().with_type::<(Vec<(u8, Vec<u8>)>, u8)>().for_each(|(commands, cut)| {
            let mut bytes = Vec::new();
            for (kind, other) in commands {
                match kind % 4 {
                    0 => bytes.extend(command(&["SET", "k", "v"])),
                    1 => bytes.extend(command(&["CLUSTER", "SYNCSLOTS", "ESTABLISH", "NAME", "a"])),
                    2 => bytes.extend(command(&["CLUSTER", "SYNCSLOTS", "FINISH", "NAME", "a"])),
                    _ => bytes.extend(other),
                }
            }
            let mut stream = SlotStream::new(0, Vec::new());
            let parts: Vec<&[u8]> = bytes.chunks(usize::from(*cut).max(1)).collect();
            if let Ok(out) = passed(&mut stream, &parts) {
                assert_eq!(out.len() as u64, stream.passed_until());
                assert!(bytes.len() - out.len() <= MAX_COMMAND_BYTES);
            }
        });
    }
}
