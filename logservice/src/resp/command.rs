//! Cuts the input of a connection into commands: RESP arrays of bulk strings, nothing else.
//!
//! Not left to a general RESP parser, for two reasons. Those recurse on nested arrays, so a client that is not even
//! logged in could overflow the stack; a command never nests. And they begin again from the first byte each time more
//! of a frame arrives; this one remembers how much a frame needs and does not look before that has come. Measured with
//! `examples/append_bench.rs` on two cores that the client shares: 1,380 MB/s of 64 KB appends that the service
//! took for such that it had without looking at them, so that nothing but the protocol was left.

use bytes::{Buf, Bytes, BytesMut};
use durability_protocol::MAX_APPEND_BYTES;

/// Most arguments of a command.
const MAX_ARGUMENTS: usize = 64;
/// Longest argument in bytes.
const MAX_ARGUMENT_BYTES: usize = MAX_APPEND_BYTES;
/// Longest command in bytes: one append of the largest size with its framing.
pub const MAX_COMMAND_BYTES: usize = MAX_APPEND_BYTES + 4096;
/// Longest length line in bytes, `\r\n` included.
const MAX_LINE_BYTES: usize = 16;

/// The input is not a command, or too large. The connection cannot go on: where the next command starts is not known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: {0}")]
pub struct ProtocolError(pub &'static str);

/// Remembers how much input the command that is arriving needs.
#[derive(Debug, Default)]
pub struct Splitter {
    needed_bytes: usize,
}

enum Line {
    Number(usize, usize),
    Incomplete,
}

impl Splitter {
    /// How many bytes of input are needed at least before the next command can be complete.
    pub fn needed_bytes(&self) -> usize {
        self.needed_bytes
    }

    /// Takes the next command off `input` and puts its arguments, without copying them, into `arguments`. False when
    /// it has not arrived as a whole. A command of more than `max_bytes`, which is [`MAX_COMMAND_BYTES`] at most, is refused
    /// as soon as that is known.
    pub fn next(
        &mut self,
        input: &mut BytesMut,
        arguments: &mut Vec<Bytes>,
        max_bytes: usize,
    ) -> Result<bool, ProtocolError> {
        arguments.clear();
        if self.needed_bytes == 0 {
            // A replica keeps its connection alive with empty lines while it loads a snapshot.
            let empty = input.iter().take_while(|byte| **byte == b'\n').count();
            input.advance(empty);
        }
        if input.len() < self.needed_bytes.max(1) {
            return Ok(false);
        }
        let mut places = [(0, 0); MAX_ARGUMENTS];
        let (count, mut at) = match line(input, 0, b'*')? {
            Line::Number(count, at) => (count, at),
            Line::Incomplete => return Ok(false),
        };
        if !(1..=MAX_ARGUMENTS).contains(&count) {
            return Err(ProtocolError("invalid number of arguments"));
        }
        for place in &mut places[..count] {
            let (bytes, start) = match line(input, at, b'$')? {
                Line::Number(bytes, start) => (bytes, start),
                Line::Incomplete => {
                    self.needed_bytes = input.len() + 1;
                    return Ok(false);
                }
            };
            if bytes > MAX_ARGUMENT_BYTES || start + bytes > max_bytes {
                return Err(ProtocolError("the command is too large"));
            }
            *place = (start, start + bytes);
            at = start + bytes + 2;
            if input.len() < at {
                self.needed_bytes = at;
                return Ok(false);
            }
            if input[start + bytes..at] != *b"\r\n" {
                return Err(ProtocolError("a bulk string does not end where it should"));
            }
        }
        self.needed_bytes = 0;
        let command = input.split_to(at).freeze();
        arguments.extend(places[..count].iter().map(|&(start, end)| command.slice(start..end)));
        Ok(true)
    }
}

/// The number of a length line at `at`, and where the next byte is.
fn line(input: &[u8], at: usize, kind: u8) -> Result<Line, ProtocolError> {
    let mut rest = &input[at.min(input.len())..];
    if !rest.has_remaining() {
        return Ok(Line::Incomplete);
    }
    if rest.get_u8() != kind {
        return Err(ProtocolError("expected an array of bulk strings"));
    }
    let mut number = 0;
    for (digits, &byte) in rest.iter().take(MAX_LINE_BYTES).enumerate() {
        match byte {
            b'0'..=b'9' if digits < 9 => number = number * 10 + usize::from(byte - b'0'),
            b'\r' if digits > 0 => {
                return match rest.get(digits + 1) {
                    Some(b'\n') => Ok(Line::Number(number, at + digits + 3)),
                    Some(_) => Err(ProtocolError("a length does not end where it should")),
                    None => Ok(Line::Incomplete),
                };
            }
            _ => return Err(ProtocolError("invalid length")),
        }
    }
    Ok(Line::Incomplete)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_all(chunks: &[&[u8]]) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
        let (mut splitter, mut input, mut arguments) = (Splitter::default(), BytesMut::new(), Vec::new());
        let mut commands = Vec::new();
        for chunk in chunks {
            input.extend_from_slice(chunk);
            while splitter.next(&mut input, &mut arguments, MAX_COMMAND_BYTES)? {
                commands.push(arguments.iter().map(|argument| argument.to_vec()).collect());
            }
        }
        Ok(commands)
    }

    #[test]
    fn commands_are_found_wherever_the_input_is_cut() {
        let text = b"*1\r\n$4\r\nPING\r\n*3\r\n$1\r\na\r\n$0\r\n\r\n$12\r\n\r\n*1\r\n$4\r\nab\r\n*1\r\n$4\r\nQUIT\r\n";
        let whole = split_all(&[text]).expect("well-formed");
        assert_eq!(whole.len(), 3);
        assert_eq!(whole[1], [b"a".to_vec(), b"".to_vec(), b"\r\n*1\r\n$4\r\nab".to_vec()]);
        for cut in 0..text.len() {
            assert_eq!(split_all(&[&text[..cut], &text[cut..]]), Ok(whole.clone()), "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(split_all(&bytes), Ok(whole));
    }

    #[test]
    fn empty_lines_between_commands_are_passed_over() {
        let commands = split_all(&[b"\n\n*1\r\n$4\r\nPING\r\n\n", b"\n*1\r\n$4\r\nQUIT\r\n"]).expect("well-formed");
        assert_eq!(commands, [[b"PING".to_vec()], [b"QUIT".to_vec()]]);
    }

    #[test]
    fn malformed_and_oversized_input_is_refused_without_waiting_for_it() {
        for bad in [
            "PING\r\n",
            "*0\r\n",
            "*65\r\n",
            "*-1\r\n",
            "*1\r\n*1\r\n",
            "*1\r\n$-1\r\n",
            "*1\r\n$99999999999\r\n",
            "*1\r\n$1048577\r\n",
            "*1\r\n$1\r\nabc",
            "*\r\n",
            "*1\rx",
            "$1\r\na\r\n",
        ] {
            assert!(split_all(&[bad.as_bytes()]).is_err(), "{bad:?}");
        }
        let mut two_large = b"*2\r\n$1048576\r\n".to_vec();
        two_large.resize(two_large.len() + (1 << 20), b'x');
        two_large.extend_from_slice(b"\r\n$1048576\r\n");
        assert!(split_all(&[&two_large]).is_err());
    }

    #[test]
    fn any_bytes_are_split_the_same_however_they_arrive() {
        bolero::check!().with_type::<(Vec<u8>, Vec<u8>)>().for_each(|(bytes, cuts)| {
            let (mut rest, mut chunks) = (&bytes[..], Vec::with_capacity(cuts.len() + 1));
            for cut in cuts.iter().take(bytes.len()) {
                let (chunk, after) = rest.split_at(usize::from(*cut).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            chunks.push(rest);
            allocation::within(32 * bytes.len() + 8192, || assert_eq!(split_all(&chunks), split_all(&[bytes])));
        });
    }

    #[test]
    fn no_more_is_asked_for_than_the_largest_command() {
        bolero::check!().with_type::<(Vec<u8>, u16)>().for_each(|(bytes, max_bytes)| {
            // Room for two length lines at least, which are looked at before they can be refused.
            let max_bytes = usize::from(*max_bytes).max(2 * MAX_LINE_BYTES);
            let (mut splitter, mut input, mut arguments) = (Splitter::default(), BytesMut::new(), Vec::new());
            for byte in bytes {
                input.extend_from_slice(&[*byte]);
                match splitter.next(&mut input, &mut arguments, max_bytes) {
                    Ok(true) => assert!(arguments.iter().map(Bytes::len).sum::<usize>() <= max_bytes),
                    // A line may be incomplete behind the last argument that fits.
                    Ok(false) => assert!(splitter.needed_bytes() <= max_bytes + 2 + MAX_LINE_BYTES),
                    Err(_) => return,
                }
            }
        });
    }
}
