//! `LOG.CHECK`, `LOG.ACCEPT`, `LOG.ACQUIRE`, `LOG.RENEW`, `LOG.RESIGN`, `LOG.RELEASE`, `LOG.BEGIN`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use durability_protocol::{
    is_valid_address, is_valid_name, is_valid_replid, process, EngineVersion, Known, Refusal, DATABASES, DIFFERS,
    MAX_ADDRESS_BYTES, MAX_RESERVE_MS, SEEN,
};

use super::arguments::{number, text};
use super::reply::{self, failure, Reply};
use crate::shard::{Held, Node, Renewal, Shard};

const ACQUIRE_USAGE: &str =
    "usage: LOG.ACQUIRE shard node-id address expected-end lease-ms [engine-version [process [replid]]] [DATABASES n] [SEEN epoch]";
/// Fewest arguments of `LOG.ACQUIRE`, all of them without names.
const ACQUIRE_ARGUMENTS: usize = 6;

/// `LOG.CHECK shard node-id address known [DIFFERS]`.
pub struct Check<'a> {
    node_id: &'a str,
    address: &'a str,
    known: Option<Known>,
    differs: bool,
}

impl<'a> Check<'a> {
    /// Reads the arguments.
    pub fn parse(arguments: &'a [Bytes]) -> Result<Self, Refusal> {
        let usage = || failure("usage: LOG.CHECK shard node-id address known [DIFFERS]");
        let [_, _, node_id, address, known, options @ ..] = arguments else { return Err(usage()) };
        let differs = match options {
            [] => false,
            [differs] if differs.eq_ignore_ascii_case(DIFFERS.as_bytes()) => true,
            _ => return Err(usage()),
        };
        let (node_id, address) = (self::node_id(node_id)?, self::address(address)?);
        let known = Known::parse(text(known)?).map_err(|error| failure(error.to_string()))?;
        Ok(Check { node_id, address, known, differs })
    }

    /// Compares what the node knows with the log.
    pub async fn run(&self, shard: &Shard) -> Result<Reply, Refusal> {
        shard.check_node(self.node_id, self.address, self.known.as_ref(), self.differs).await.map(reply::bulk)
    }
}

/// `LOG.ACCEPT shard log-id`.
pub fn accept(shard: &Shard, arguments: &[Bytes]) -> Result<Reply, Refusal> {
    let [_, _, log_id] = arguments else { return Err(failure("usage: LOG.ACCEPT shard log-id")) };
    shard.accept_log(text(log_id)?)?;
    Ok(reply::ok())
}

/// `LOG.ACQUIRE shard node-id address expected-end lease-ms [engine-version [process [replid]]] [DATABASES n] [SEEN epoch]`.
pub async fn acquire(shard: Arc<Shard>, arguments: &[Bytes]) -> Result<Reply, Refusal> {
    let (arguments, databases) = take_named(arguments, ACQUIRE_ARGUMENTS, DATABASES);
    let (arguments, seen) = take_named(&arguments, ACQUIRE_ARGUMENTS, SEEN);
    let Some(([_, _, node_id, address, expected_end, lease_ms], optional @ ([] | [_] | [_, _] | [_, _, _]))) =
        arguments.split_first_chunk()
    else {
        return Err(failure(ACQUIRE_USAGE));
    };
    let (node_id, address) = (self::node_id(node_id)?, self::address(address)?);
    let (end, lease_ms) = (number(expected_end, "expected-end")?, number(lease_ms, "lease-ms")?);
    let engine = optional.first().map(|version| engine_version(version)).transpose()?;
    let replid = optional.get(2).map(|replid| self::replid(replid)).transpose()?;
    // A node that does not know its process can still give the argument after it.
    let process = optional.get(1).filter(|process| replid.is_none() || !process.is_empty());
    let process = process.map(|process| self::process(process)).transpose()?;
    let databases = databases.map(|databases| number(&databases, "databases")).transpose()?;
    let databases = databases.map(|databases| u32::try_from(databases).unwrap_or(u32::MAX));
    let seen = seen.map(|seen| number(&seen, "epoch")).transpose()?;
    let (node, held) = (Node { node_id, address, engine, process, databases }, Held { end, replid, seen });
    let (epoch, end) = shard.acquire(node, held, lease_ms).await?;
    Ok(reply::array(vec![reply::integer(epoch), reply::integer(end)]))
}

/// Takes the pair of `name` and its value out of the arguments after the first `positional` ones.
fn take_named(arguments: &[Bytes], positional: usize, name: &str) -> (Vec<Bytes>, Option<Bytes>) {
    let mut arguments = arguments.to_vec();
    let is_name = |argument: &Bytes| argument.eq_ignore_ascii_case(name.as_bytes());
    let at = arguments.iter().skip(positional).position(is_name).map(|at| at + positional);
    let value = at.filter(|at| at + 1 < arguments.len()).and_then(|at| arguments.drain(at..at + 2).nth(1));
    (arguments, value)
}

/// Reads the id of a node.
pub fn node_id(argument: &[u8]) -> Result<&str, Refusal> {
    let node_id = text(argument)?;
    if is_valid_name(node_id) {
        return Ok(node_id);
    }
    Err(failure("not a valid node id: 1 to 64 of A-Z a-z 0-9 . _ : -"))
}

/// Reads the address of a node.
pub fn address(argument: &[u8]) -> Result<&str, Refusal> {
    let address = text(argument)?;
    if is_valid_address(address) {
        return Ok(address);
    }
    Err(failure(format!("not a valid address: 1 to {MAX_ADDRESS_BYTES} of A-Z a-z 0-9 . _ - : [ ] %")))
}

/// Reads which process a node is.
fn process(argument: &[u8]) -> Result<&str, Refusal> {
    let process = text(argument)?;
    if process::is_valid(process) {
        return Ok(process);
    }
    Err(failure(format!("not a valid process: 1 to {} printable characters without spaces", process::MAX_BYTES)))
}

/// Reads the replication id of what a node holds.
fn replid(argument: &[u8]) -> Result<&str, Refusal> {
    let replid = text(argument)?;
    if is_valid_replid(replid) {
        return Ok(replid);
    }
    Err(failure("not a valid replication id: 40 lower-case hexadecimal digits"))
}

/// Reads a server's version.
pub fn engine_version(argument: &[u8]) -> Result<EngineVersion, Refusal> {
    text(argument)?.parse().map_err(|error| failure(format!("engine-version: {error}")))
}

/// `LOG.RENEW shard epoch lease-ms [sent]`.
pub async fn renew(shard: Arc<Shard>, arguments: &[Bytes]) -> Result<Reply, Refusal> {
    let Some(([_, _, epoch, lease_ms], optional @ ([] | [_]))) = arguments.split_first_chunk() else {
        return Err(failure("usage: LOG.RENEW shard epoch lease-ms [sent]"));
    };
    let (epoch, lease_ms) = (number(epoch, "epoch")?, number(lease_ms, "lease-ms")?);
    let sent = optional.first().map(|sent| number(sent, "sent")).transpose()?;
    shard.renew(Renewal { epoch, lease_ms, sent }).await?;
    Ok(reply::ok())
}

/// `LOG.RESIGN shard epoch [TO node-id reserve-ms]`.
pub async fn resign(shard: Arc<Shard>, arguments: &[Bytes]) -> Result<Reply, Refusal> {
    let usage = || failure("usage: LOG.RESIGN shard epoch [TO node-id reserve-ms]");
    let [_, _, epoch, options @ ..] = arguments else { return Err(usage()) };
    let (successor, rest) = successor(options)?;
    if !rest.is_empty() {
        return Err(usage());
    }
    shard.resign(number(epoch, "epoch")?, successor).await?;
    Ok(reply::ok())
}

/// `LOG.RELEASE shard epoch [TO node-id reserve-ms] [FORCE]`. Nobody waits for the answer any more once `hung_up` has ended.
pub async fn release(
    shard: Arc<Shard>,
    arguments: &[Bytes],
    hung_up: impl Future<Output = ()>,
) -> Result<Reply, Refusal> {
    let usage = || failure("usage: LOG.RELEASE shard epoch [TO node-id reserve-ms] [FORCE]");
    let [_, _, epoch, options @ ..] = arguments else { return Err(usage()) };
    let (successor, rest) = successor(options)?;
    let epoch = number(epoch, "epoch")?;
    let gone = async {
        hung_up.await;
        failure("nobody waits for the release any more")
    };
    match rest {
        [] => shard.release(epoch, successor, gone).await?,
        [force] if force.eq_ignore_ascii_case(b"FORCE") => shard.force_release(epoch, successor).await?,
        _ => return Err(usage()),
    }
    Ok(reply::ok())
}

/// The only node that may lead next, and how long that is reserved.
type Successor<'a> = (&'a str, Duration);

/// Reads `[TO node-id reserve-ms]`. Returns it with the arguments after it.
fn successor(options: &[Bytes]) -> Result<(Option<Successor<'_>>, &[Bytes]), Refusal> {
    match options {
        [to, node_id, reserve_ms, rest @ ..] if to.eq_ignore_ascii_case(b"TO") => {
            let reserve_ms = number(reserve_ms, "reserve-ms")?.min(MAX_RESERVE_MS);
            Ok((Some((self::node_id(node_id)?, Duration::from_millis(reserve_ms))), rest))
        }
        rest => Ok((None, rest)),
    }
}

/// `LOG.BEGIN shard epoch replid offset`.
pub async fn begin(shard: Arc<Shard>, arguments: &[Bytes]) -> Result<Reply, Refusal> {
    let [_, _, epoch, replid, offset] = arguments else {
        return Err(failure("usage: LOG.BEGIN shard epoch replid offset"));
    };
    shard.begin(number(epoch, "epoch")?, text(replid)?, number(offset, "offset")?).await?;
    Ok(reply::ok())
}
