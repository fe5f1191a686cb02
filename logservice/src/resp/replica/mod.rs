//! `REPLCONF` and `PSYNC`: the log as a Valkey primary.
//!
//! A Valkey primary keeps idle replicas alive with `PING` commands *inside* the stream. The log adds nothing of its own
//! to the stream: its bytes are the leader's, and their positions too. Not even an empty line can be sent, because a
//! replica counts every byte it reads as stream (`read_reploff` in its `networking.c`) and would be one byte off from
//! then on. While there is a leader its own PINGs come through the log every ten seconds. Without one, a replica runs
//! into its `repl-timeout` after a minute, connects again and continues where it was.
//!
//! A refusal has the code `-NOMASTERLINK`: after any other error a replica gives up its position in the stream and asks again at once,
//! without end. If there is no full copy, the reply is delayed, longer each time: until then a replica takes empty lines as a sign of life.

mod follower;
mod full_copy;
mod info;
mod stall_clock;

pub use follower::{send, Follower};
pub use info::ReplicaInfo;

use bytes::Bytes;
use durability_protocol::{Code, Known, MalformedResp, Refusal};

use super::arguments::text;
use super::identity::Follows;
use super::reply::failure;
use crate::shard::{Position, Shard, Unreadable};
use crate::store::ReadError;

/// `PSYNC replid next`, where `next` counts from one. `PSYNC ? -1` requests a full copy. A replica that has reported what it follows is
/// refused if the log contradicts that.
pub fn find_position(shard: &Shard, follows: Option<&Follows>, arguments: &[Bytes]) -> Result<Position, Refusal> {
    let [_, replid, next] = arguments else { return Err(failure("usage: PSYNC replid offset")) };
    let next: i64 = text(next)?.parse().map_err(|_| failure("offset is not a number"))?;
    let held = u64::try_from(next).ok().and_then(|next| next.checked_sub(1));
    if let Some(Follows { known, is_whole }) = follows {
        // The newest bytes of a server that was a leader were never durable, so its position proves nothing.
        let own = held.filter(|_| *is_whole).map(|durable| Known {
            epoch: 0,
            replid: String::from_utf8_lossy(&arguments[1]).into_owned(),
            durable,
            ..known.clone()
        });
        let judged = shard.judge_known(known).and_then(|()| own.map_or(Ok(()), |own| shard.judge_known(&own)));
        judged?;
    }
    shard.position_of(text(replid)?, held)
}

/// Turns a refusal into the one code after which a server keeps its position and its data. After any other it requests a full copy, again
/// and again without a pause.
pub fn try_later(refusal: Refusal) -> Refusal {
    Refusal::new(Code::NoMasterLink, refusal.to_string())
}

/// Why a replica was disconnected.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// Its connection broke.
    #[error("{0}")]
    Connection(#[from] std::io::Error),
    /// The log could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The snapshot could not be read to its end.
    #[error(transparent)]
    Snapshot(#[from] Unreadable),
    /// There is no full copy, and the replica was told to come again.
    #[error("{0}")]
    NoCopy(String),
    /// It sent something that is no command.
    #[error("it sent no command: {0}")]
    Protocol(#[from] MalformedResp),
    /// The shard has ended.
    #[error("{0}")]
    Ended(Refusal),
    /// Its login is withdrawn.
    #[error("its token was removed, or has another role now")]
    Withdrawn,
    /// Too much of the log was kept for it alone.
    #[error("it is behind the newest snapshot by more than --max-pinned-mb allows, or by anything while --max-log-mb stops the log")]
    Behind,
    /// The log failed, or the stream goes on under another replication id.
    #[error("{0}")]
    Restart(&'static str),
}
