//! What the log service answers. It is not believed: a reply has a bounded length, and an array no arrays in it, as the
//! decoder recurses on those.

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

use crate::log::shard_view::LeaseState;

/// Longest reply in bytes.
const MAX_REPLY_BYTES: usize = 64 << 10;
/// Most items of an array.
const MAX_ITEMS: usize = 256;

/// What `LOG.STATUS` says, as far as a node needs it.
#[derive(Debug, Clone, Default)]
pub struct LogStatus {
    /// The log's end, which is also what is durable.
    pub end: u64,
    /// The newest epoch.
    pub epoch: u64,
    /// Who leads; empty if nobody does.
    pub leader: String,
    /// Which process it is; empty if that is not known. See `base/process_identity.rs`.
    pub leader_process: String,
    /// The IP address from which the service sees this node; empty if it does not tell.
    pub client_ip: String,
    /// Whether anybody leads, and for how long.
    pub lease: LeaseState,
    /// The epoch whose leader began to write last.
    pub stream_epoch: u64,
    /// The replication id under which it goes on: that of this leader.
    pub replid: String,
    /// Whether any leader ever began.
    pub is_seeded: bool,
    /// Port of the service's HTTP side.
    pub http_port: u16,
    /// `ok`, or what keeps the shard from being served.
    pub state: String,
    /// Says more about the state.
    pub error: String,
    /// Newest version of the server that wrote the log; empty if it is not known.
    pub engine: String,
    /// The most databases that a leader of the log could write to; 0 if it is not known.
    pub databases: u32,
    /// Where its newest snapshot stands (exclusive); none if it has none.
    pub snapshot_offset: Option<u64>,
    /// The modules' types that a server has to know to load the newest snapshot, as far as that is known.
    pub module_types: Vec<String>,
    /// Why nodes that ask for a full copy are given none; empty if they are.
    pub full_copy_error: String,
}

impl LogStatus {
    /// Why nobody is given anything of the log of `shard`, until it is repaired; `None` if that is not so.
    pub fn why_closed(&self, shard: &str) -> Option<String> {
        let is_closed = matches!(self.state.as_str(), "failed" | "damaged");
        is_closed.then(|| format!("the log of shard {shard} is {}: {}", self.state, self.error))
    }

    /// Why a node that asks for a full copy of `shard` is given none; `None` if that is not so.
    pub fn why_no_copy(&self, shard: &str) -> Option<String> {
        let why = &self.full_copy_error;
        let text =
            || format!("the log service has no full copy of shard {shard} for this node, which waits for one: {why}");
        self.why_closed(shard).or_else(|| (!why.is_empty()).then(text))
    }
    /// Reads the answer to `LOG.STATUS`: names and values in turn.
    ///
    /// # Errors
    /// It is no such answer.
    pub fn read(reply: &OwnedFrame) -> Result<Self, String> {
        let mut status = LogStatus::default();
        let mut has_end = false;
        for (name, value) in fields("LOG.STATUS", reply)? {
            let number = value.parse::<u64>();
            match name.as_str() {
                "end" => match number {
                    Ok(end) => {
                        status.end = end;
                        has_end = true;
                    }
                    Err(_) => return Err(format!("LOG.STATUS says that the end is '{value}'")),
                },
                "epoch" => status.epoch = number.unwrap_or(0),
                "leader" => status.leader = value,
                "leader_process" => status.leader_process = value,
                "client_ip" => status.client_ip = value,
                "lease_remaining_ms" => status.lease = LeaseState::parse(&value)?,
                "stream_epoch" => status.stream_epoch = number.unwrap_or(0),
                "replid" => status.replid = value,
                "seeded" => status.is_seeded = value == "1",
                "http_port" => status.http_port = value.parse().unwrap_or(0),
                "state" => status.state = value,
                "error" => status.error = value,
                "engine_version" => status.engine = value,
                "databases" => status.databases = value.parse().unwrap_or(0),
                "snapshot_offset" => status.snapshot_offset = number.ok(),
                "snapshot_module_types" => status.module_types = value.split_whitespace().map(str::to_owned).collect(),
                "full_copy_error" => status.full_copy_error = value,
                _ => {}
            }
        }
        if has_end {
            Ok(status)
        } else {
            Err("LOG.STATUS does not say where the log ends".to_owned())
        }
    }
}

/// The names and values that `command` was answered with, in turn.
///
/// # Errors
/// It answered something else.
pub fn fields<'a>(command: &str, reply: &'a OwnedFrame) -> Result<impl Iterator<Item = (String, String)> + 'a, String> {
    let OwnedFrame::Array(fields) = reply else { return Err(format!("{command} answered no array")) };
    Ok(fields.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))))
}

fn text(frame: &OwnedFrame) -> String {
    match frame {
        OwnedFrame::BulkString(bytes) | OwnedFrame::SimpleString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        OwnedFrame::Integer(number) => number.to_string(),
        _ => String::new(),
    }
}

/// Takes the first complete reply from `buffer`. `None` if there is none yet.
///
/// # Errors
/// What is in the buffer is no reply of the log service.
pub fn take_reply(buffer: &mut Vec<u8>) -> Result<Option<OwnedFrame>, String> {
    match reply_bytes(buffer)? {
        Some(bytes) => {
            let decoded = decode(&buffer[..bytes]).map_err(|error| error.to_string())?;
            buffer.drain(..bytes);
            match decoded {
                Some((frame, used)) if used == bytes => Ok(Some(frame)),
                _ => Err("a reply of another length than it says".to_owned()),
            }
        }
        None if buffer.len() > MAX_REPLY_BYTES => Err(format!("a reply of more than {MAX_REPLY_BYTES} bytes")),
        None => Ok(None),
    }
}

/// The length of the first reply; `None` if it has not arrived as a whole.
fn reply_bytes(input: &[u8]) -> Result<Option<usize>, String> {
    let input = &input[..input.len().min(MAX_REPLY_BYTES)];
    if input.first() != Some(&b'*') {
        return item_end(input, 0);
    }
    let Some(mut at) = line_end(input, 0) else { return Ok(None) };
    let items = length(&input[1..at], MAX_ITEMS)?;
    for _ in 0..items.unwrap_or(0) {
        match item_end(input, at)? {
            Some(end) => at = end,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// Where the item that begins at `at`, which is no array, ends.
fn item_end(input: &[u8], at: usize) -> Result<Option<usize>, String> {
    let Some(kind) = input.get(at) else { return Ok(None) };
    if !b"+-:$".contains(kind) {
        return Err(format!("a reply that begins with {kind:#04x}"));
    }
    let Some(end) = line_end(input, at) else { return Ok(None) };
    if *kind != b'$' {
        return Ok(Some(end));
    }
    Ok(match length(&input[at + 1..end], MAX_REPLY_BYTES)? {
        Some(bytes) => Some(end + bytes + 2).filter(|end| *end <= input.len()),
        None => Some(end),
    })
}

/// The position behind the line that begins at `at`.
fn line_end(input: &[u8], at: usize) -> Option<usize> {
    memchr::memmem::find(&input[at..], b"\r\n").map(|end| at + end + 2)
}

/// A length line without its first byte; `None` for -1, which stands for nothing.
fn length(line: &[u8], most: usize) -> Result<Option<usize>, String> {
    let number = std::str::from_utf8(line).ok().and_then(|line| line.trim_end().parse::<i64>().ok());
    match number {
        Some(-1) => Ok(None),
        Some(number) => match usize::try_from(number) {
            Ok(number) if number <= most => Ok(Some(number)),
            _ => Err(format!("a length of {number}")),
        },
        None => Err("a length that is no number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(chunks: &[&[u8]]) -> Result<Vec<OwnedFrame>, String> {
        let (mut buffer, mut replies) = (Vec::new(), Vec::new());
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(reply) = take_reply(&mut buffer)? {
                replies.push(reply);
            }
        }
        Ok(replies)
    }

    #[test]
    fn replies_are_found_wherever_the_input_is_cut() {
        let text = b"+OK\r\n:42\r\n-GAP 7 why\r\n*4\r\n$3\r\nend\r\n$2\r\n17\r\n$5\r\nerror\r\n$0\r\n\r\n$-1\r\n*2\r\n:1\r\n:2\r\n";
        let whole = take_all(&[text]).expect("replies");
        assert_eq!(whole.len(), 6);
        assert_eq!(LogStatus::read(&whole[3]).map(|status| status.end), Ok(17));
        for cut in 0..text.len() {
            assert_eq!(take_all(&[&text[..cut], &text[cut..]]), Ok(whole.clone()), "cut at {cut}");
        }
    }

    #[test]
    fn a_service_that_answers_something_else_is_not_listened_to() {
        for bad in
            ["*1\r\n*1\r\n", "*257\r\n", "$65537\r\n", "$-2\r\n", "$x\r\n", "HTTP/1.1 400 Bad Request\r\n", "%1\r\n"]
        {
            assert!(take_all(&[bad.as_bytes()]).is_err(), "{bad:?}");
        }
        let nested = "*1\r\n".repeat(1_000_000);
        assert!(take_all(&[nested.as_bytes()]).is_err());
        let endless = [b"+".to_vec(), vec![b'x'; MAX_REPLY_BYTES]].concat();
        assert!(take_all(&[&endless]).is_err());
    }

    #[test]
    fn any_bytes_are_the_same_replies_however_they_arrive() {
        bolero::check!().with_type::<(Vec<u8>, Vec<u8>)>().for_each(|(bytes, cuts)| {
            let (mut rest, mut chunks) = (&bytes[..], Vec::with_capacity(cuts.len() + 1));
            for cut in cuts.iter().take(bytes.len()) {
                let (chunk, after) = rest.split_at(usize::from(*cut).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            chunks.push(rest);
            allocation::within(128 * bytes.len() + 8192, || {
                let whole = take_all(&[bytes]);
                assert_eq!(take_all(&chunks).is_ok(), whole.is_ok());
                for reply in whole.iter().flatten() {
                    let _ = LogStatus::read(reply);
                }
            });
        });
    }
}
