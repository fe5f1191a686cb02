//! Replies of the log service, which is not trusted: [`RespParser`] finds where a reply ends, within [`LIMITS`] and without nested arrays,
//! before it is decoded by a decoder that recurses on those.

use durability_protocol::{Grammar, RespLimits, RespParser};
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

use crate::log::shard_view::LeaseState;

/// Longest reply in bytes. A set of slots may be as long as 48 KB, and `LOG.SLOTS` tells several.
const MAX_REPLY_BYTES: usize = 256 << 10;
const LIMITS: RespLimits = RespLimits { items: 256, item_bytes: MAX_REPLY_BYTES, frame_bytes: MAX_REPLY_BYTES };

/// What `LOG.STATUS` says, as far as a node needs it.
#[derive(Debug, Clone, Default)]
pub struct LogStatus {
    /// The log's end, which is also what is durable.
    pub end: u64,
    /// The newest epoch.
    pub epoch: u64,
    /// The node that leads, or led last; empty if there is none.
    pub leader: String,
    /// Which process it is; empty if that is not known. See `base/process_identity.rs`.
    pub leader_process: String,
    /// The IP address from which the service sees this node; empty if it does not say.
    pub client_ip: String,
    /// Whether anybody leads, and for how long.
    pub lease: LeaseState,
    /// The epoch of the leader that last began to write.
    pub stream_epoch: u64,
    /// The replication id of that leader.
    pub replid: String,
    /// Whether any leader ever began to write. The service calls that `seeded`.
    pub has_begun: bool,
    /// The service's HTTP port; 0 if it has none.
    pub http_port: u16,
    /// `ok`, or what is wrong with the shard.
    pub state: String,
    /// Details of the state.
    pub error: String,
    /// The newest version among the servers that wrote the log; empty if it is not known.
    pub engine: String,
    /// The most databases that a leader of the log could write to; 0 if it is not known.
    pub databases: u32,
    /// The offset of its newest snapshot (exclusive); `None` if it has none.
    pub snapshot_offset: Option<u64>,
    /// The module types that a server must know to load the newest snapshot, as far as that is known.
    pub module_types: Vec<String>,
    /// Why nodes that ask for a full copy get none; empty if they get one.
    pub full_copy_error: String,
    /// The config epoch of the shard's primary in its cluster; 0 if none was stored.
    pub config_epoch: u64,
    /// Whether slots were stored for the shard.
    pub has_slots: bool,
    /// The id of that primary in the cluster; empty if it is not known.
    pub cluster_node_id: String,
}

impl LogStatus {
    /// Why the log of `shard` is not served until it is repaired; `None` if it is served.
    pub fn why_closed(&self, shard: &str) -> Option<String> {
        let is_closed = matches!(self.state.as_str(), "failed" | "damaged");
        is_closed.then(|| format!("the log of shard {shard} is {}: {}", self.state, self.error))
    }

    /// Why a node that asks for a full copy of `shard` gets none; `None` if it gets one.
    pub fn why_no_copy(&self, shard: &str) -> Option<String> {
        let why = &self.full_copy_error;
        let text =
            || format!("the log service has no full copy of shard {shard} for this node, which waits for one: {why}");
        self.why_closed(shard).or_else(|| (!why.is_empty()).then(text))
    }

    /// Reads the answer to `LOG.STATUS`: names and values in turn.
    ///
    /// # Errors
    /// The reply is no such answer.
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
                "seeded" => status.has_begun = value == "1",
                "http_port" => status.http_port = value.parse().unwrap_or(0),
                "state" => status.state = value,
                "error" => status.error = value,
                "engine_version" => status.engine = value,
                "databases" => status.databases = value.parse().unwrap_or(0),
                "snapshot_offset" => status.snapshot_offset = number.ok(),
                "snapshot_module_types" => status.module_types = value.split_whitespace().map(str::to_owned).collect(),
                "full_copy_error" => status.full_copy_error = value,
                "config_epoch" => status.config_epoch = number.unwrap_or(0),
                "slots" => status.has_slots = !value.is_empty(),
                "cluster_node_id" => status.cluster_node_id = value,
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

/// The alternating names and values in the answer to `command`.
///
/// # Errors
/// The answer is something else.
pub fn fields<'a>(command: &str, reply: &'a OwnedFrame) -> Result<impl Iterator<Item = (String, String)> + 'a, String> {
    let OwnedFrame::Array(fields) = reply else { return Err(format!("{command} answered no array")) };
    Ok(fields.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))))
}

/// The text of a frame; empty if it is something else.
pub fn text(frame: &OwnedFrame) -> String {
    match frame {
        OwnedFrame::BulkString(bytes) | OwnedFrame::SimpleString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        OwnedFrame::Integer(number) => number.to_string(),
        _ => String::new(),
    }
}

/// Takes the first complete reply from `buffer`. `None` if there is none yet.
///
/// # Errors
/// The buffer holds something else than a reply of the log service.
pub fn take_reply(buffer: &mut Vec<u8>) -> Result<Option<OwnedFrame>, String> {
    let length = RespParser::new(Grammar::Replies).next(buffer, &LIMITS).map_err(|error| error.to_string())?;
    let Some(length) = length else { return Ok(None) };
    let decoded = decode(&buffer[..length]).map_err(|error| error.to_string())?;
    buffer.drain(..length);
    match decoded {
        Some((frame, used)) if used == length => Ok(Some(frame)),
        _ => Err("a reply of another length than it says".to_owned()),
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
    fn a_service_that_answers_something_else_is_refused() {
        for bad in
            ["*1\r\n*1\r\n", "*257\r\n", "$262145\r\n", "$-2\r\n", "$x\r\n", "HTTP/1.1 400 Bad Request\r\n", "%1\r\n"]
        {
            assert!(take_all(&[bad.as_bytes()]).is_err(), "{bad:?}");
        }
        let nested = "*1\r\n".repeat(1_000_000);
        assert!(take_all(&[nested.as_bytes()]).is_err());
        let endless = [b"+".to_vec(), vec![b'x'; MAX_REPLY_BYTES]].concat();
        assert!(take_all(&[&endless]).is_err());
    }

    /// Where replies begin and end is fuzzed with the parser; this is what is read from them.
    #[test]
    fn any_bytes_are_a_status_or_an_error() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            allocation::within(128 * bytes.len() + 8192, || {
                for reply in take_all(&[bytes]).iter().flatten() {
                    let _ = LogStatus::read(reply);
                }
            });
        });
    }
}
