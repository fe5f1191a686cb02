//! Finds RESP commands and replies in bytes that arrive piece by piece.
//!
//! Every reader of RESP in this repository uses this parser: the log service's port, the feed of an engine, `logservice dump`, and the
//! module when it reads replies. They differ in their [`Grammar`] and [`RespLimits`] only.
//!
//! A general parser would not do, for two reasons. It recurses on nested arrays, so a peer that has not even logged in could overflow the
//! stack; neither commands nor the log service's replies nest. And it begins again from the first byte each time more of a frame
//! arrives; this one goes on where it stopped, and does not look before the bytes that it needs have arrived.
//!
//! No length is trusted before its bytes are there, and nothing is copied.

use std::ops::Range;

/// Most digits of a length. Eighteen always fit a 64-bit number.
const MAX_DIGITS: usize = 18;

/// Which frames are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grammar {
    /// Commands: arrays of one or more bulk strings.
    Commands,
    /// Replies: a simple string, an error, an integer, a bulk string, or an array of these. Bulk strings and arrays may be null.
    Replies,
}

impl Grammar {
    fn too_large(self) -> MalformedResp {
        MalformedResp(match self {
            Grammar::Commands => "the command is too large",
            Grammar::Replies => "the reply is too large",
        })
    }

    fn wrong_number(self) -> MalformedResp {
        MalformedResp(match self {
            Grammar::Commands => "invalid number of arguments",
            Grammar::Replies => "too many items",
        })
    }
}

/// How large a frame may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RespLimits {
    /// Most items of an array.
    pub items: usize,
    /// Longest item in bytes, without its framing.
    pub item_bytes: usize,
    /// Longest frame in bytes, with its framing.
    pub frame_bytes: usize,
}

/// The bytes are no frame of the [`Grammar`], or exceed the [`RespLimits`]. The stream cannot be read on: where the next frame begins is
/// unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedResp(&'static str);

impl std::fmt::Display for MalformedResp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for MalformedResp {}

const BAD_LENGTH: MalformedResp = MalformedResp("invalid length");

/// Reads one frame after another; see the module.
#[derive(Debug)]
pub struct RespParser {
    grammar: Grammar,
    /// Items of the current frame that have not arrived; `None` until its first line has.
    left: Option<usize>,
    /// Where the items are that have arrived, without their framing.
    items: Vec<Range<usize>>,
    /// Where the next line begins.
    at: usize,
    needed_bytes: usize,
}

impl RespParser {
    /// A parser at the beginning of a frame.
    pub fn new(grammar: Grammar) -> Self {
        RespParser { grammar, left: None, items: Vec::new(), at: 0, needed_bytes: 0 }
    }

    /// How many bytes the current frame needs at least before it can be complete. Zero if none of it was seen.
    pub fn needed_bytes(&self) -> usize {
        self.needed_bytes
    }

    /// Looks for the end of the frame that begins at the first byte of `input`, and returns its length once all of it has arrived. The
    /// caller then takes so many bytes off `input`; [`RespParser::items`] says where in them the items are. Until then the caller only
    /// appends to `input`.
    ///
    /// # Errors
    /// There is no frame, or one that exceeds `limits`. This is reported as soon as it is known, however little has arrived.
    pub fn next(&mut self, input: &[u8], limits: &RespLimits) -> Result<Option<usize>, MalformedResp> {
        if input.len() < self.needed_bytes.max(1) {
            return Ok(None);
        }
        let mut left = match self.left {
            Some(left) => left,
            None => {
                (self.at, self.needed_bytes) = (0, 0);
                self.items.clear();
                let Some(items) = self.first_line(input, limits)? else { return Ok(self.wait_for_line(input)) };
                items
            }
        };
        while left > 0 {
            self.left = Some(left);
            if self.at >= limits.frame_bytes {
                return Err(self.grammar.too_large());
            }
            if !self.item(input, limits)? {
                return Ok(None);
            }
            left -= 1;
        }
        (self.left, self.needed_bytes) = (None, 0);
        Ok(Some(self.at))
    }

    /// Where the items of the frame are whose length [`RespParser::next`] returned last, without their framing. A null has no bytes.
    pub fn items(&self) -> &[Range<usize>] {
        &self.items
    }

    fn wait_for_line(&mut self, input: &[u8]) -> Option<usize> {
        self.needed_bytes = input.len() + 1;
        None
    }

    /// How many items the frame has, and moves to the first. `None` if that has not arrived.
    fn first_line(&mut self, input: &[u8], limits: &RespLimits) -> Result<Option<usize>, MalformedResp> {
        match (self.grammar, input[0]) {
            (_, b'*') => {}
            (Grammar::Commands, _) => return Err(MalformedResp("expected an array of bulk strings")),
            // The frame is its only item.
            (Grammar::Replies, _) => return Ok(Some(1)),
        }
        let wrong_number = self.grammar.wrong_number();
        let Some((items, at)) = self.length(input, limits.items, wrong_number)? else { return Ok(None) };
        if self.grammar == Grammar::Commands && items == Some(0) {
            return Err(wrong_number);
        }
        self.at = at;
        Ok(Some(items.unwrap_or(0)))
    }

    /// Passes over one item. `false` if not all of it has arrived.
    fn item(&mut self, input: &[u8], limits: &RespLimits) -> Result<bool, MalformedResp> {
        let Some(&kind) = input.get(self.at) else {
            self.wait_for_line(input);
            return Ok(false);
        };
        match (self.grammar, kind) {
            (_, b'$') => {}
            (Grammar::Replies, b'+' | b'-' | b':') => return self.line_item(input, limits),
            (Grammar::Commands, _) => return Err(MalformedResp("expected an array of bulk strings")),
            (Grammar::Replies, _) => return Err(MalformedResp("a reply of an unknown kind")),
        }
        let Some((bytes, start)) = self.length(input, limits.item_bytes, self.grammar.too_large())? else {
            self.wait_for_line(input);
            return Ok(false);
        };
        let Some(bytes) = bytes else {
            self.items.push(start..start);
            self.at = start;
            return Ok(true);
        };
        let end = start + bytes;
        if end + 2 > limits.frame_bytes {
            return Err(self.grammar.too_large());
        }
        match input.get(end..end + 2) {
            Some(b"\r\n") => {}
            Some(_) => return Err(MalformedResp("a bulk string does not end where it should")),
            None => {
                self.needed_bytes = end + 2;
                return Ok(false);
            }
        }
        self.items.push(start..end);
        self.at = end + 2;
        Ok(true)
    }

    /// Passes over an item that is one line. `false` if its end has not arrived.
    fn line_item(&mut self, input: &[u8], limits: &RespLimits) -> Result<bool, MalformedResp> {
        let start = self.at + 1;
        let line = &input[start..];
        let end = line.windows(2).position(|pair| pair == b"\r\n");
        // A carriage return at the end may be the first half of the line's end.
        let bytes = end.unwrap_or_else(|| line.strip_suffix(b"\r").unwrap_or(line).len());
        if bytes > limits.item_bytes || start + bytes + 2 > limits.frame_bytes {
            return Err(self.grammar.too_large());
        }
        if end.is_none() {
            self.wait_for_line(input);
            return Ok(false);
        }
        self.items.push(start..start + bytes);
        self.at = start + bytes + 2;
        Ok(true)
    }

    /// The number of the length line at `self.at`, whose first byte was judged, and where the next byte is. The number is `None` for -1,
    /// which stands for null. `None` if the line has not arrived; `too_large` if the number is more than `most`.
    fn length(
        &self,
        input: &[u8],
        most: usize,
        too_large: MalformedResp,
    ) -> Result<Option<(Option<usize>, usize)>, MalformedResp> {
        let start = self.at + 1;
        let line = &input[start..];
        if self.grammar == Grammar::Replies && line.first() == Some(&b'-') {
            const NULL: &[u8] = b"-1\r\n";
            let arrived = &line[..line.len().min(NULL.len())];
            return match NULL.starts_with(arrived) {
                true if arrived.len() == NULL.len() => Ok(Some((None, start + NULL.len()))),
                true => Ok(None),
                false => Err(BAD_LENGTH),
            };
        }
        let mut number: u64 = 0;
        for (digits, &byte) in line.iter().enumerate() {
            match byte {
                b'0'..=b'9' if digits < MAX_DIGITS => {
                    number = number * 10 + u64::from(byte - b'0');
                    if number > most as u64 {
                        return Err(too_large);
                    }
                }
                b'\r' if digits > 0 => {
                    return match line.get(digits + 1) {
                        Some(b'\n') => Ok(Some((Some(number as usize), start + digits + 2))),
                        Some(_) => Err(BAD_LENGTH),
                        None => Ok(None),
                    };
                }
                _ => return Err(BAD_LENGTH),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: RespLimits = RespLimits { items: 64, item_bytes: 1 << 20, frame_bytes: (1 << 20) + 4096 };
    /// As a log may hold: nothing but what Valkey itself allows.
    const LARGE: RespLimits = RespLimits { items: i32::MAX as usize, item_bytes: 1 << 40, frame_bytes: usize::MAX };
    const REPLY: RespLimits = RespLimits { items: 256, item_bytes: 64 << 10, frame_bytes: 64 << 10 };

    type Frames = Vec<Vec<Vec<u8>>>;

    /// The items of each frame, as far as there are any, and why there are no more.
    fn read(grammar: Grammar, limits: &RespLimits, chunks: &[&[u8]]) -> (Frames, Option<MalformedResp>) {
        let (mut parser, mut input, mut frames) = (RespParser::new(grammar), Vec::new(), Vec::new());
        for chunk in chunks {
            input.extend_from_slice(chunk);
            loop {
                match parser.next(&input, limits) {
                    Ok(Some(length)) => {
                        frames.push(parser.items().iter().map(|item| input[item.clone()].to_vec()).collect());
                        input.drain(..length);
                    }
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    }

    fn is_refused(grammar: Grammar, limits: &RespLimits, text: &[u8]) -> bool {
        read(grammar, limits, &[text]).1.is_some()
    }

    #[test]
    fn frames_are_found_wherever_the_input_is_cut() {
        let commands =
            b"*1\r\n$4\r\nPING\r\n*3\r\n$1\r\na\r\n$0\r\n\r\n$12\r\n\r\n*1\r\n$4\r\nab\r\n*1\r\n$4\r\nQUIT\r\n";
        let replies =
            b"+OK\r\n:42\r\n-GAP 7 why\r\n*3\r\n$3\r\nend\r\n:17\r\n$-1\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n+a\rb\n\r\n";
        for (grammar, text, count) in [(Grammar::Commands, &commands[..], 3), (Grammar::Replies, &replies[..], 9)] {
            let whole = read(grammar, &SMALL, &[text]);
            assert_eq!((whole.0.len(), whole.1), (count, None));
            for cut in 0..text.len() {
                assert_eq!(read(grammar, &SMALL, &[&text[..cut], &text[cut..]]), whole, "cut at {cut}");
            }
            assert_eq!(read(grammar, &SMALL, &text.chunks(1).collect::<Vec<_>>()), whole);
        }
        let (commands, _) = read(Grammar::Commands, &SMALL, &[commands]);
        assert_eq!(commands[1], [&b"a"[..], b"", b"\r\n*1\r\n$4\r\nab"]);
        let (replies, _) = read(Grammar::Replies, &SMALL, &[replies]);
        assert_eq!(replies[3], [&b"end"[..], b"17", b""]);
        assert_eq!(replies[8], [b"a\rb\n"]);
    }

    #[test]
    fn malformed_commands_are_refused_before_the_rest_arrives() {
        for bad in [
            "PING\r\n",
            "\n",
            "+OK\r\n",
            "*0\r\n",
            "*65",
            "*-1\r\n",
            "*1\r\n*1\r\n",
            "*1\r\n:1\r\n",
            "*1\r\n$-1\r\n",
            "*1\r\n$99999999999",
            "*1\r\n$1048577",
            "*1\r\n$1\r\nabc",
            "*\r\n",
            "*1\rx",
            "*1\r\nx",
            "$1\r\na\r\n",
            "*1000000000000000000000",
            "*0000000000000000001",
        ] {
            assert!(is_refused(Grammar::Commands, &SMALL, bad.as_bytes()), "{bad:?}");
        }
        let mut two_large = b"*2\r\n$1048576\r\n".to_vec();
        two_large.resize(two_large.len() + (1 << 20), b'x');
        two_large.extend_from_slice(b"\r\n$1048576\r\n");
        assert!(is_refused(Grammar::Commands, &SMALL, &two_large));
        let nested = b"*1\r\n".repeat(1_000_000);
        assert!(is_refused(Grammar::Commands, &LARGE, &nested));
    }

    #[test]
    fn malformed_replies_are_refused_before_the_rest_arrives() {
        for bad in [
            "*1\r\n*1\r\n",
            "*257",
            "$65537",
            "$-2",
            "$-1\rx",
            "$x\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
            "%1\r\n",
            "*1\r\n_\r\n",
        ] {
            assert!(is_refused(Grammar::Replies, &REPLY, bad.as_bytes()), "{bad:?}");
        }
        let nested = b"*1\r\n".repeat(1_000_000);
        assert!(is_refused(Grammar::Replies, &REPLY, &nested));
        let endless = [b"+".to_vec(), vec![b'x'; REPLY.frame_bytes]].concat();
        assert!(is_refused(Grammar::Replies, &REPLY, &endless));
    }

    #[test]
    fn a_length_costs_nothing_before_its_bytes_arrive() {
        allocation::within(1024, || {
            let mut parser = RespParser::new(Grammar::Commands);
            assert_eq!(parser.next(b"*2147483647\r\n$1000000000000\r\n", &LARGE), Ok(None));
            assert_eq!(parser.needed_bytes(), 29 + 1_000_000_000_000 + 2);
        });
    }

    /// The one fuzz target of RESP: any bytes, cut anywhere, in either grammar and within any limits.
    #[test]
    fn any_bytes_are_the_same_frames_however_they_arrive() {
        type Input = (bool, (u8, u8, u16), Vec<u8>, Vec<u8>);
        bolero::check!().with_type::<Input>().for_each(|(replies, (items, item_bytes, frame_bytes), bytes, cuts)| {
            let grammar = if *replies { Grammar::Replies } else { Grammar::Commands };
            let (items, item_bytes) = (usize::from(*items), usize::from(*item_bytes));
            let limits = RespLimits { items, item_bytes, frame_bytes: usize::from(*frame_bytes) };
            let (mut rest, mut chunks) = (&bytes[..], Vec::with_capacity(cuts.len() + 1));
            for cut in cuts.iter().take(bytes.len()) {
                let (chunk, after) = rest.split_at(usize::from(*cut).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            chunks.push(rest);
            allocation::within(128 * bytes.len() + 8192, || {
                let whole = read(grammar, &limits, &[bytes]);
                assert_eq!(read(grammar, &limits, &chunks), whole);
                for frame in &whole.0 {
                    assert!(frame.len() <= items.max(1) && frame.iter().all(|item| item.len() <= item_bytes));
                    assert!(frame.iter().map(Vec::len).sum::<usize>() <= limits.frame_bytes);
                }
            });
        });
    }

    #[test]
    fn no_more_is_asked_for_than_the_largest_frame() {
        bolero::check!().with_type::<(bool, Vec<u8>, u16)>().for_each(|(replies, bytes, frame_bytes)| {
            let grammar = if *replies { Grammar::Replies } else { Grammar::Commands };
            let limits = RespLimits { items: 64, item_bytes: 1 << 20, frame_bytes: usize::from(*frame_bytes) };
            let mut parser = RespParser::new(grammar);
            for arrived in 1..=bytes.len() {
                match parser.next(&bytes[..arrived], &limits) {
                    // A line may begin in the last bytes that fit.
                    Ok(None) => assert!(parser.needed_bytes() <= limits.frame_bytes + MAX_DIGITS + 4),
                    Ok(Some(_)) | Err(_) => return,
                }
            }
        });
    }
}
