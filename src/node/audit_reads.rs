//! Reads keys of the server for an audit: a few at a time, on the main thread, outside of any command.
//!
//! Nothing is pending then: every command that ran has put its effects into the replication stream, whose end is the offset that
//! the keys belong to. A key that turns out to have expired is deleted as for any reader, which is in the stream as well.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use durability_protocol::audit::{
    parse_keyspace, read_scan, value_command, Kind, Parts, Pick, Picker, Reading, Value, MAX_BATCH_SAMPLES, SCAN_COUNT,
};
use valkey_module::{CallOptionsBuilder, CallReply, CallResult, Context};

use crate::exchange::audit_step::{AuditStep, KeyName, KeyRead};
use crate::node::{self, Role};
use crate::server::api;

/// No key is begun after so long. The last one may take as long as its size allows for, see [`Parts::of`].
const STEP_TIME: Duration = Duration::from_micros(400);
/// The most bytes of replies in a step.
const STEP_BYTES: usize = 256 << 10;

/// Does what `step` says. Main thread, outside of any command and of any server event.
pub fn run(ctx: &Context, step: &mut AuditStep) {
    let (begin, busy) = (Instant::now(), cpu_time());
    step.failure = why_not(step.epoch);
    if step.failure.is_none() && !is_handing_over() {
        // Keys are counted last, as reading them deletes those that have expired.
        let read =
            read_keys(ctx, step, begin).and_then(|()| if step.counts { count_keys(ctx).map(Some) } else { Ok(None) });
        match read {
            Ok(databases) => step.databases = databases,
            Err(why) => step.failure = Some(why),
        }
        api::select_database(ctx, 0);
    }
    // After everything that reading has done to the stream.
    step.offset = api::replication_offset(ctx);
    step.time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    step.took = cpu_time().saturating_sub(busy);
}

/// The processor time that this thread has used. Elapsed time would count the time of other threads as well, and the pause that follows is a
/// hundred times as long: on a machine that is short of cores it would last minutes.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn why_not(epoch: u64) -> Option<String> {
    let leads = |module: &mut node::Module| (module.role == Role::Leader, module.epoch, module.shared.durable());
    match node::with(leads)? {
        (true, Some(current), Some(_)) if current == epoch => None,
        (true, Some(current), None) if current == epoch => Some("its data is on its way to the log".to_owned()),
        _ => Some("it does not lead any more".to_owned()),
    }
}

/// Whether a planned failover goes on. Nothing expires then: a key that has expired looks gone, and is not deleted.
fn is_handing_over() -> bool {
    node::with(|module| module.read_pauses.is_for_failover()) == Some(true)
}

fn read_keys(ctx: &Context, step: &mut AuditStep, begin: Instant) -> Result<(), String> {
    if step.picker.is_none() {
        let (databases, random) = (count_keys(ctx)?, &mut step.random);
        step.picker = Some(Picker::new(step.keys, &databases, || random.pop_front().unwrap_or(0)));
    }
    let mut bytes = 0;
    while step.read.len() < MAX_BATCH_SAMPLES && bytes < STEP_BYTES && begin.elapsed() < STEP_TIME {
        let Some((database, key)) = next_name(ctx, step)? else {
            step.is_done = true;
            return Ok(());
        };
        if !api::select_database(ctx, database) {
            return Err(format!("the server has no database {database}"));
        }
        let read = read_key(ctx, &key)?;
        if let KeyRead::Key(Reading { value: Some(value), .. }) = &read {
            bytes += size(value);
        }
        step.read.push(((database, key), read));
    }
    Ok(())
}

/// The next key to look at: one that was asked for, then one that is picked.
fn next_name(ctx: &Context, step: &mut AuditStep) -> Result<Option<KeyName>, String> {
    if let Some(name) = step.names.pop_front() {
        return Ok(Some(name));
    }
    let Some(picker) = &mut step.picker else { return Ok(None) };
    loop {
        match picker.pick() {
            Pick::Key(database, key) => return Ok(Some((database, key))),
            Pick::Done => return Ok(None),
            Pick::Scan { database, cursor } => {
                if !api::select_database(ctx, database) {
                    return Err(format!("the server has no database {database}"));
                }
                let (cursor, count) = (cursor.to_string(), SCAN_COUNT.to_string());
                let reply = call(ctx, "SCAN", &[cursor.as_bytes(), b"COUNT", count.as_bytes()])?;
                let (cursor, keys) = read_scan(&reply)?;
                picker.scanned(cursor, keys);
            }
        }
    }
}

fn read_key(ctx: &Context, key: &[u8]) -> Result<KeyRead, String> {
    let Value::Bytes(word) = call(ctx, "TYPE", &[key])? else { return Err("TYPE has another answer".to_owned()) };
    let Some(kind) = Kind::from_word(&word) else {
        return Ok(if word == b"none" { KeyRead::Nothing } else { KeyRead::OtherType });
    };
    let length = number(&call(ctx, kind.length_command(), &[key])?)?;
    // Looks at no more elements than would be read.
    let memory = match call(ctx, "MEMORY", &[b"USAGE", key, b"SAMPLES", b"256"])? {
        // It has expired in between.
        Value::Nil => return Ok(KeyRead::Nothing),
        memory => number(&memory)?,
    };
    let mut parts = Parts::of(kind, length, memory);
    if kind == Kind::Stream && parts.value {
        parts = with_groups(ctx, key, parts)?;
    }
    let mut value = None;
    let mut field_times = None;
    if let Some((before, after)) = value_command(kind, parts) {
        let arguments = before[1..].iter().map(|word| word.as_bytes());
        let arguments: Vec<&[u8]> = arguments.chain([key]).chain(after.iter().map(|word| word.as_bytes())).collect();
        let reply = call(ctx, before[0], &arguments)?;
        if kind == Kind::Hash {
            field_times = Some(times_of_fields(ctx, key, &reply)?);
        }
        value = Some(reply);
    }
    // This comes last: if the key is there now, it was there when it was read.
    let expire_time_ms = call(ctx, "PEXPIRETIME", &[key])?.number()?;
    if expire_time_ms == -2 {
        return Ok(KeyRead::Nothing);
    }
    Ok(KeyRead::Key(Reading { kind, length, expire_time_ms, parts, value, field_times }))
}

fn with_groups(ctx: &Context, key: &[u8], parts: Parts) -> Result<Parts, String> {
    let stream = call(ctx, "XINFO", &[b"STREAM", key])?;
    let groups = number(stream.field("groups")?)?;
    let mut consumers = 0;
    if groups > 0 && Parts::may_count_consumers(groups) {
        for group in call(ctx, "XINFO", &[b"GROUPS", key])?.items()? {
            consumers += number(group.field("consumers")?)?;
        }
    }
    Ok(parts.with_groups(groups, consumers))
}

fn times_of_fields(ctx: &Context, key: &[u8], fields: &Value) -> Result<Value, String> {
    let fields: Vec<&[u8]> = fields
        .items()?
        .chunks_exact(2)
        .filter_map(|pair| match &pair[0] {
            Value::Bytes(field) => Some(field.as_slice()),
            _ => None,
        })
        .collect();
    if fields.is_empty() {
        return Ok(Value::Array(Vec::new()));
    }
    let count = fields.len().to_string();
    let arguments: Vec<&[u8]> = [key, b"FIELDS", count.as_bytes()].into_iter().chain(fields).collect();
    call(ctx, "HPEXPIRETIME", &arguments)
}

fn number(value: &Value) -> Result<u64, String> {
    u64::try_from(value.number()?).map_err(|error| error.to_string())
}

/// How many keys each database has; databases without keys are left out.
fn count_keys(ctx: &Context) -> Result<Vec<(u32, u64)>, String> {
    match call(ctx, "INFO", &[b"keyspace"])? {
        Value::Bytes(text) => Ok(parse_keyspace(&String::from_utf8_lossy(&text))),
        _ => Err("INFO has another answer".to_owned()),
    }
}

/// Runs a command that only reads, as one that is replicated. The server would otherwise drop the deletion of a key that it finds to have
/// expired, and the log would keep that key for good. (Outside of any command, the server replicates the effects of a call by the options of
/// that call.)
fn call(ctx: &Context, command: &str, arguments: &[&[u8]]) -> Result<Value, String> {
    let options = CallOptionsBuilder::new().replicate().errors_as_replies().build();
    let result: CallResult<'static> = ctx.call_ext(command, &options, arguments);
    match result {
        Ok(reply) => value(&reply),
        Err(error) => Err(format!("{command}: {}", error.to_utf8_string().unwrap_or_default())),
    }
}

fn value(reply: &CallReply<'_>) -> Result<Value, String> {
    Ok(match reply {
        CallReply::Null(_) => Value::Nil,
        CallReply::I64(number) => Value::Integer(number.to_i64()),
        CallReply::String(text) => Value::Bytes(text.as_bytes().to_vec()),
        CallReply::Array(items) => {
            let item = |item: CallResult<'_>| match item {
                Ok(item) => value(&item),
                Err(_) => Ok(Value::Nil),
            };
            Value::Array(items.iter().map(item).collect::<Result<_, _>>()?)
        }
        _ => return Err("the server answers in another protocol than it was asked in".to_owned()),
    })
}

fn size(value: &Value) -> usize {
    match value {
        Value::Nil | Value::Integer(_) => 8,
        Value::Bytes(bytes) => bytes.len(),
        Value::Array(items) => items.iter().map(size).sum(),
    }
}
