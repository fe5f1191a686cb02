//! Takes commands off the input of a connection.

use bytes::{Buf, Bytes, BytesMut};
use durability_protocol::{Grammar, MalformedResp, RespLimits, RespParser};

/// Commands as they arrive on one connection.
#[derive(Debug)]
pub struct CommandReader(RespParser);

impl Default for CommandReader {
    /// Nothing has arrived.
    fn default() -> Self {
        CommandReader(RespParser::new(Grammar::Commands))
    }
}

impl CommandReader {
    /// How many bytes of input are needed at least before the next command can be complete.
    pub fn needed_bytes(&self) -> usize {
        self.0.needed_bytes()
    }

    /// Takes the next command off `input` and puts its arguments, without copying them, into `arguments`. Passes over empty lines
    /// before it: a replica keeps its connection alive with them while it loads a snapshot. `false` if the command has not arrived as a
    /// whole.
    ///
    /// # Errors
    /// The input is no command, or one that exceeds `limits`.
    pub fn next(
        &mut self,
        input: &mut BytesMut,
        arguments: &mut Vec<Bytes>,
        limits: &RespLimits,
    ) -> Result<bool, MalformedResp> {
        arguments.clear();
        if self.0.needed_bytes() == 0 {
            let empty = input.iter().take_while(|byte| **byte == b'\n').count();
            input.advance(empty);
        }
        let Some(length) = self.0.next(input, limits)? else { return Ok(false) };
        let command = input.split_to(length).freeze();
        arguments.extend(self.0.items().iter().map(|place| command.slice(place.clone())));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_lines_between_commands_are_passed_over() {
        const LIMITS: RespLimits = RespLimits { items: 4, item_bytes: 16, frame_bytes: 64 };
        let (mut reader, mut input, mut arguments) = (CommandReader::default(), BytesMut::new(), Vec::new());
        let mut commands = Vec::new();
        for byte in b"\n\n*1\r\n$4\r\nPING\r\n\n\n*2\r\n$4\r\nECHO\r\n$1\r\n\n\r\n" {
            input.extend_from_slice(&[*byte]);
            while reader.next(&mut input, &mut arguments, &LIMITS).expect("well-formed") {
                commands.push(arguments.clone());
            }
        }
        assert_eq!(commands, [vec![&b"PING"[..]], vec![b"ECHO", b"\n"]]);
    }
}
