//! `LOG.BACKUP`.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use durability_protocol::Refusal;

use super::arguments::text;
use super::reply::{self, failure, Reply};
use crate::service::Service;
use crate::shard::Shard;

/// `LOG.BACKUP shard [name]`: makes a snapshot and keeps it under that name, or under the time. The reply is the name, its offset and its
/// length.
pub async fn backup(service: &Service, shard: Arc<Shard>, arguments: &[Bytes]) -> Result<Reply, Refusal> {
    let name = match arguments {
        [_, _] => now(),
        [_, _, name] => text(name)?.to_owned(),
        _ => return Err(failure("usage: LOG.BACKUP shard [name]")),
    };
    let record = service.back_up(shard, &name).await?;
    Ok(reply::array(vec![reply::bulk(name), reply::integer(record.offset), reply::integer(record.bytes)]))
}

/// The time in UTC, as a name: `2026-11-21T17:05:00Z`.
fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
