//! `LOG.AUDIT` and `LOG.AUDIT-RESULT`.

use std::sync::Arc;

use bytes::Bytes;
use durability_protocol::audit::{Batch, DEFAULT_AUDIT_KEYS, MAX_AUDIT_KEYS};
use durability_protocol::Refusal;

use super::arguments::number;
use super::reply::{self, failure, Reply};
use crate::audit::Report;
use crate::service::Service;
use crate::shard::Shard;

/// `LOG.AUDIT shard [KEYS n]`: names and values in turn, when it is done.
pub async fn audit(service: &Service, shard: Arc<Shard>, arguments: &[Bytes]) -> Result<Reply, Refusal> {
    let keys = match &arguments[2.min(arguments.len())..] {
        [] => DEFAULT_AUDIT_KEYS,
        [word, keys] if word.eq_ignore_ascii_case(b"KEYS") => number(keys, "KEYS")?,
        _ => return Err(failure("usage: LOG.AUDIT shard [KEYS n]")),
    };
    if !(1..=MAX_AUDIT_KEYS).contains(&keys) {
        return Err(failure(format!("KEYS must be 1 to {MAX_AUDIT_KEYS}")));
    }
    service.audit(shard, keys).await.map(|report| answer(&report))
}

fn answer(report: &Report) -> Reply {
    let millis = |time: std::time::Duration| time.as_millis() as u64;
    let figures = [
        ("keys", report.keys),
        ("keys_in_part", report.keys_in_part),
        ("keys_of_modules", report.keys_of_modules),
        ("differences", report.differences),
        ("first_offset", report.first_offset),
        ("last_offset", report.last_offset),
        ("time_ms", millis(report.time)),
        ("leader_time_ms", millis(report.leader_time)),
        ("leader_busy_us", report.leader_busy.as_micros() as u64),
        ("leader_longest_us", report.leader_longest.as_micros() as u64),
    ];
    let mut fields: Vec<_> =
        figures.into_iter().map(|(name, figure)| (reply::bulk(name), reply::integer(figure))).collect();
    for (at, difference) in report.told.iter().enumerate() {
        fields.push((reply::bulk(format!("difference{at}")), reply::bulk(difference.to_string())));
    }
    Reply::Map(fields)
}

/// `LOG.AUDIT-RESULT shard audit-id epoch batch`: databases and names of keys in turn.
pub async fn result(shard: Arc<Shard>, arguments: &[Bytes]) -> Result<Reply, Refusal> {
    let [_, _, id, epoch, batch] = arguments else {
        return Err(failure("usage: LOG.AUDIT-RESULT shard audit-id epoch batch"));
    };
    let (id, epoch) = (number(id, "audit-id")?, number(epoch, "epoch")?);
    let batch = Batch::from_bytes(batch).map_err(failure)?;
    let names = shard.deliver_samples(id, epoch, batch).await?;
    let items =
        names.into_iter().flat_map(|(database, key)| [reply::bulk(database.to_string()), Reply::Bulk(key.into())]);
    Ok(reply::array(items.collect()))
}
