//! Cuts a log into the commands that it holds, for `logservice dump`.
//!
//! A leader can append what it likes, so nothing here believes a length before the bytes are there, and nothing recurses.

use bytes::{Buf, Bytes, BytesMut};

/// Longest length line in bytes, `\r\n` included.
const MAX_LINE_BYTES: usize = 24;
/// Most arguments of a command, as Valkey has it.
const MAX_ARGUMENTS: u64 = i32::MAX as u64;
/// Longest argument in bytes; Valkey's limit can be configured, but not to more.
const MAX_ARGUMENT_BYTES: u64 = 1 << 40;

/// The bytes are no command.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoCommand(&'static str);

/// Bytes of a log, and how far the command at their beginning is known.
#[derive(Default)]
pub struct CommandCutter {
    input: BytesMut,
    /// Arguments that the command has; none if not even that is known.
    count: Option<u64>,
    /// Where the arguments are that have arrived as a whole.
    places: Vec<(usize, usize)>,
    /// Where the next one begins.
    at: usize,
}

impl CommandCutter {
    /// Adds the next bytes of the log.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Takes the next command: its arguments, and how many bytes it took. `None` if it has not arrived as a whole.
    ///
    /// # Errors
    /// There is no command. Nothing can be cut any more.
    pub fn next(&mut self) -> Result<Option<(Vec<Bytes>, usize)>, NoCommand> {
        let count = match self.count {
            Some(count) => count,
            None => {
                let Some((count, at)) = line(&self.input, 0, b'*')? else { return Ok(None) };
                if !(1..=MAX_ARGUMENTS).contains(&count) {
                    return Err(NoCommand("invalid number of arguments"));
                }
                (self.count, self.at) = (Some(count), at);
                count
            }
        };
        while (self.places.len() as u64) < count {
            let Some((bytes, start)) = line(&self.input, self.at, b'$')? else { return Ok(None) };
            if bytes > MAX_ARGUMENT_BYTES {
                return Err(NoCommand("an argument is too long"));
            }
            let end = start + bytes as usize;
            match self.input.get(end..end + 2) {
                Some(b"\r\n") => {}
                Some(_) => return Err(NoCommand("an argument does not end where it should")),
                None => return Ok(None),
            }
            self.places.push((start, end));
            self.at = end + 2;
        }
        let length = self.at;
        let command = self.input.split_to(length).freeze();
        let arguments = std::mem::take(&mut self.places).into_iter().map(|(start, end)| command.slice(start..end));
        let arguments = arguments.collect();
        (self.count, self.at) = (None, 0);
        Ok(Some((arguments, length)))
    }
}

/// The number of a length line at `at`, and where the next byte is.
fn line(input: &[u8], at: usize, kind: u8) -> Result<Option<(u64, usize)>, NoCommand> {
    let mut rest = &input[at.min(input.len())..];
    if rest.is_empty() {
        return Ok(None);
    }
    if rest.get_u8() != kind {
        return Err(NoCommand("not an array of bulk strings"));
    }
    let rest = &rest[..rest.len().min(MAX_LINE_BYTES)];
    let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
        return if rest.len() < MAX_LINE_BYTES { Ok(None) } else { Err(NoCommand("invalid length")) };
    };
    let digits = rest[..end].strip_suffix(b"\r").filter(|digits| digits.iter().all(u8::is_ascii_digit));
    let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    number.map(|number| Some((number, at + end + 2))).ok_or(NoCommand("invalid length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_all(chunks: &[&[u8]]) -> Result<Vec<Vec<Bytes>>, NoCommand> {
        let (mut cutter, mut commands) = (CommandCutter::default(), Vec::new());
        for chunk in chunks {
            cutter.push(chunk);
            while let Some((arguments, _)) = cutter.next()? {
                commands.push(arguments);
            }
        }
        Ok(commands)
    }

    #[test]
    fn commands_are_found_wherever_records_are_cut() {
        let text = b"*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$0\r\n\r\n$7\r\n\r\n*1\r\n$\r\n";
        let whole = cut_all(&[text]).expect("commands");
        assert_eq!(whole[1], [&b"SET"[..], b"", b"\r\n*1\r\n$"]);
        for cut in 0..text.len() {
            assert_eq!(cut_all(&[&text[..cut], &text[cut..]]), Ok(whole.clone()), "cut at {cut}");
        }
    }

    #[test]
    fn what_a_leader_should_not_have_written_is_an_error_and_costs_nothing() {
        for bad in
            ["*1\r\n*1\r\n", "*0\r\n", "*-1\r\n", "+OK\r\n", "*99999999999\r\n", "*1\r\n$99999999999999\r\n", "*1\r\nx"]
        {
            assert!(cut_all(&[bad.as_bytes()]).is_err(), "{bad:?}");
        }
        let nested = "*1\r\n".repeat(1_000_000);
        assert!(cut_all(&[nested.as_bytes()]).is_err());
        allocation::within(4096, || cut_all(&[b"*2147483647\r\n$1000000000000\r\n"])).expect("more may come");
    }

    #[test]
    fn any_bytes_are_cut_the_same_however_they_arrive() {
        bolero::check!().with_type::<(Vec<u8>, Vec<u8>)>().for_each(|(bytes, cuts)| {
            allocation::within(16 * bytes.len() + 4096, || {
                let whole = cut_all(&[bytes]);
                let (mut rest, mut chunks) = (&bytes[..], Vec::with_capacity(cuts.len() + 1));
                for cut in cuts.iter().take(bytes.len()) {
                    let (chunk, after) = rest.split_at(usize::from(*cut).min(rest.len()));
                    chunks.push(chunk);
                    rest = after;
                }
                chunks.push(rest);
                assert_eq!(cut_all(&chunks), whole);
            });
        });
    }
}
