//! Reads the replication stream as it passes, cut anywhere, and judges each command by its name. Keeps no arguments, and so needs no buffer:
//! where whole commands are needed there is [`RespParser`](crate::RespParser).

use std::fmt;

use crate::logged::{judge, Judged, Logged};

/// Longest name of a command in bytes.
const WORD_BYTES: usize = 64;
/// Most digits of a length or a number of arguments.
const MAX_DIGITS: u8 = 18;

/// A place in the stream from which nothing may be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotLogged {
    /// Where the command begins, or the transaction that it is in. Everything before (exclusive) may be applied.
    pub offset: u64,
    /// What is there.
    pub what: Unfit,
}

/// What does not belong into a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// The command with that full name, which no leader logs.
    NotLogged(String),
    /// A command with that full name, which the server that would apply the log does not have.
    Unknown(String),
    /// Something that is no command as servers write them to the stream.
    NoCommand,
}

impl fmt::Display for NotLogged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at offset {}: ", self.offset)?;
        match &self.what {
            Unfit::NotLogged(command) => {
                write!(
                    f,
                    "the command '{command}' is none that a leader puts into its log: somebody else has written to it"
                )
            }
            Unfit::Unknown(command) => write!(f, "unknown command '{command}'"),
            Unfit::NoCommand => {
                f.write_str("what stands there is no command: somebody other than a leader has written to the log")
            }
        }
    }
}

impl std::error::Error for NotLogged {}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// `*`: a command begins.
    Command,
    /// `$`: an argument begins.
    Argument,
    /// A digit of a length, or the end of it.
    Digit { is_count: bool },
    /// The line feed after a length.
    EndOfLength { is_count: bool },
    /// So many more bytes of an argument.
    Bytes(u64),
    /// The two bytes after an argument, or only the second.
    EndOfArgument { is_half: bool },
}

/// Scans a stream; see the module.
#[derive(Debug)]
pub struct Scanner {
    /// Offset of the next byte.
    offset: u64,
    /// Where the current command begins.
    command: u64,
    /// Where the current transaction begins.
    transaction: Option<u64>,
    next: Next,
    number: u64,
    digits: u8,
    /// Arguments of the current command that have not ended, including the name.
    left: u64,
    /// The command's name as far as it has arrived, then its first argument.
    word: Vec<u8>,
    name: Option<String>,
    /// The current argument is kept in `word`.
    keeps_word: bool,
}

impl Scanner {
    /// A scanner at `offset`, where a command begins.
    pub fn new(offset: u64) -> Self {
        Scanner {
            offset,
            command: offset,
            transaction: None,
            next: Next::Command,
            number: 0,
            digits: 0,
            left: 0,
            word: Vec::with_capacity(WORD_BYTES),
            name: None,
            keeps_word: false,
        }
    }

    /// Offset of the byte that it scans next.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether a command begins with the next byte.
    pub fn is_between_commands(&self) -> bool {
        self.next == Next::Command
    }

    /// Scans the bytes that follow. `find` returns the result of [`is_logged`](crate::is_logged) for the command with that full name.
    ///
    /// # Errors
    /// From the offset in the error on, nothing may be applied. Then the scanner must not be used again.
    pub fn scan(&mut self, mut bytes: &[u8], find: impl Fn(&str) -> Option<Logged>) -> Result<(), NotLogged> {
        while !bytes.is_empty() {
            let used = self.scan_command(bytes, &find)?;
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// The same up to the end of the current command, or of the bytes if that comes first. Returns how many it has scanned.
    ///
    /// # Errors
    /// As [`Scanner::scan`].
    pub fn scan_command(
        &mut self,
        mut bytes: &[u8],
        find: impl Fn(&str) -> Option<Logged>,
    ) -> Result<usize, NotLogged> {
        let length = bytes.len();
        while let Some(&byte) = bytes.first() {
            let mut used = 1;
            match self.next {
                Next::Command if byte == b'*' => {
                    (self.command, self.name) = (self.offset, None);
                    self.begin_length(true);
                }
                Next::Argument if byte == b'$' => self.begin_length(false),
                Next::Digit { .. } if byte.is_ascii_digit() && self.digits < MAX_DIGITS => {
                    self.number = self.number * 10 + u64::from(byte - b'0');
                    self.digits += 1;
                }
                Next::Digit { is_count } if byte == b'\r' && self.digits > 0 => {
                    self.next = Next::EndOfLength { is_count }
                }
                Next::EndOfLength { is_count: true } if byte == b'\n' && self.number > 0 => {
                    (self.left, self.keeps_word, self.next) = (self.number, true, Next::Argument);
                }
                Next::EndOfLength { is_count: false } if byte == b'\n' => {
                    self.next = match self.number {
                        0 => Next::EndOfArgument { is_half: false },
                        bytes => Next::Bytes(bytes),
                    };
                }
                Next::Bytes(left) => {
                    used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    if self.keeps_word {
                        let room = (WORD_BYTES + 1).saturating_sub(self.word.len());
                        self.word.extend_from_slice(&bytes[..used.min(room)]);
                    }
                    self.next = match left - used as u64 {
                        0 => Next::EndOfArgument { is_half: false },
                        left => Next::Bytes(left),
                    };
                }
                Next::EndOfArgument { is_half: false } if byte == b'\r' => {
                    self.next = Next::EndOfArgument { is_half: true }
                }
                Next::EndOfArgument { is_half: true } if byte == b'\n' => {
                    self.left -= 1;
                    if self.keeps_word {
                        self.word_ended(&find)?;
                    }
                    self.next = if self.left == 0 { Next::Command } else { Next::Argument };
                }
                _ => return Err(self.unfit(Unfit::NoCommand)),
            }
            self.offset += used as u64;
            bytes = &bytes[used..];
            if self.next == Next::Command {
                break;
            }
        }
        Ok(length - bytes.len())
    }

    fn begin_length(&mut self, is_count: bool) {
        (self.number, self.digits, self.next) = (0, 0, Next::Digit { is_count });
        self.word.clear();
    }

    /// The name has arrived, or the first argument if that decides as well.
    fn word_ended(&mut self, find: &impl Fn(&str) -> Option<Logged>) -> Result<(), NotLogged> {
        let judged = match self.name.take() {
            Some(name) => judge(&name, &self.word, find),
            None => {
                if self.word.len() > WORD_BYTES {
                    let shown = self.word[..WORD_BYTES].escape_ascii().to_string();
                    return Err(self.unfit(Unfit::Unknown(shown)));
                }
                self.word.make_ascii_lowercase();
                let Ok(name) = std::str::from_utf8(&self.word) else {
                    return Err(self.unfit(Unfit::Unknown(self.word.escape_ascii().to_string())));
                };
                match name {
                    "multi" => self.transaction = Some(self.command),
                    "exec" => self.transaction = None,
                    _ => {}
                }
                if self.left > 0 && matches!(find(name), Some(Logged::BySubcommand | Logged::Getack)) {
                    self.name = Some(name.to_owned());
                    return Ok(());
                }
                judge(name, &[], find)
            }
        };
        self.keeps_word = false;
        match judged {
            Judged::Always | Judged::Taken => Ok(()),
            Judged::NotLogged(name) => Err(self.unfit(Unfit::NotLogged(name))),
            Judged::Unknown(name) => Err(self.unfit(Unfit::Unknown(name))),
        }
    }

    fn unfit(&self, what: Unfit) -> NotLogged {
        let at_command = if self.next == Next::Command { self.offset } else { self.command };
        NotLogged { offset: self.transaction.unwrap_or(at_command), what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str) -> Option<Logged> {
        match name {
            "set" | "multi" | "exec" | "function|load" => Some(Logged::Yes),
            "function" | "config" => Some(Logged::BySubcommand),
            "replconf" => Some(Logged::Getack),
            "debug" | "config|set" => Some(Logged::Never),
            _ => None,
        }
    }

    fn stream(commands: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for command in commands {
            let words: Vec<&str> = command.split(' ').collect();
            out.extend(format!("*{}\r\n", words.len()).bytes());
            words.iter().for_each(|word| out.extend(format!("${}\r\n{word}\r\n", word.len()).bytes()));
        }
        out
    }

    /// What is found, wherever the stream is cut.
    fn scanned(bytes: &[u8]) -> Result<(), (u64, Unfit)> {
        let scan = |parts: &[&[u8]]| {
            let mut scanner = Scanner::new(100);
            let found = parts.iter().try_for_each(|part| scanner.scan(part, find));
            found.map_err(|found| (found.offset - 100, found.what))
        };
        let whole = scan(&[bytes]);
        for at in 0..=bytes.len() {
            assert_eq!(scan(&[&bytes[..at], &bytes[at..]]), whole, "cut at {at}");
        }
        assert_eq!(scan(&bytes.chunks(1).collect::<Vec<_>>()), whole);
        whole
    }

    #[test]
    fn what_a_leader_logs_passes_whatever_it_holds() {
        let value = "*1\r\n$5\r\nDEBUG\r\n";
        let commands = [
            "SET k v",
            &format!("set {value} {value}"),
            "set  ",
            "MULTI",
            "Function LOAD x",
            "EXEC",
            "REPLCONF GETACK *",
        ];
        assert_eq!(scanned(&stream(&commands)), Ok(()));
        assert_eq!(scanned(b""), Ok(()));
        // The end of the log may cut a command.
        assert_eq!(scanned(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nvalue"), Ok(()));
    }

    #[test]
    fn a_command_that_no_leader_logs_is_reported_with_its_offset() {
        let before = stream(&["SET k v"]).len() as u64;
        for (command, name) in [
            ("DEBUG SLEEP 1", "debug"),
            ("debug", "debug"),
            ("Config Set port 1", "config|set"),
            ("REPLCONF ACK 1", "replconf"),
            ("REPLCONF", "replconf"),
        ] {
            let not_logged = Unfit::NotLogged(name.to_owned());
            let bytes = stream(&["SET k v", command, "SET k w"]);
            assert_eq!(scanned(&bytes), Err((before, not_logged.clone())), "{command}");
            let bytes = stream(&["SET k v", "MULTI", "SET k w", command, "EXEC"]);
            assert_eq!(scanned(&bytes), Err((before, not_logged.clone())), "{command} in a transaction");
            let bytes = stream(&["MULTI", "EXEC", command]);
            assert_eq!(
                scanned(&bytes),
                Err((stream(&["MULTI", "EXEC"]).len() as u64, not_logged)),
                "{command} behind one"
            );
        }
    }

    #[test]
    fn an_unknown_command_is_reported_as_unknown() {
        let unknown = |name: &str| Err((0, Unfit::Unknown(name.to_owned())));
        assert_eq!(scanned(&stream(&["nosuch k"])), unknown("nosuch"));
        assert_eq!(scanned(&stream(&["FUNCTION nosuch"])), unknown("function|nosuch"));
        assert_eq!(scanned(&stream(&["FUNCTION"])), unknown("function|"));
        let long = "x".repeat(WORD_BYTES + 1);
        assert_eq!(scanned(&stream(&[&long])), unknown(&long[..WORD_BYTES]));
        assert_eq!(scanned(b"*1\r\n$1\r\n\xff\r\n"), unknown("\\xff"));
        assert_eq!(scanned(b"*1\r\n$0\r\n\r\n"), unknown(""));
    }

    #[test]
    fn bytes_that_no_server_writes_are_no_command() {
        let begin = stream(&["SET k v"]);
        for garbage in [
            "CONFIG SET port 1\r\n",
            "\n",
            "*0\r\n",
            "*-1\r\n",
            "*\r\n",
            "*1\rX",
            "*1\n",
            "*9999999999999999999\r\n",
            "*1\r\n:1\r\n",
            "*1\r\n$-1\r\n",
            "*1\r\n$+3\r\nSET\r\n",
            "*1\r\n$3\r\nSET..",
            "*1\r\n$3\r\nSET\r.",
        ] {
            let bytes = [&begin, garbage.as_bytes()].concat();
            assert_eq!(scanned(&bytes), Err((begin.len() as u64, Unfit::NoCommand)), "{garbage:?}");
        }
    }

    #[test]
    fn any_bytes_pass_or_are_told_with_a_place_within_them() {
        bolero::check!().with_type::<(u8, Vec<u8>)>().for_each(|(commands, bytes)| {
            let all = [stream(&vec!["SET k v"; usize::from(*commands % 3)]), bytes.clone()].concat();
            let mut scanner = Scanner::new(100);
            if let Err(found) = scanner.scan(&all, find) {
                assert!((100..100 + all.len() as u64).contains(&found.offset));
                assert!(found.to_string().len() < 1000);
            }
        });
    }
}
