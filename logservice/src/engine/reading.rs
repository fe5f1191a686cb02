//! Reads keys of an engine that follows the log, as they stand at an offset.
//!
//! A replica hides expired keys and fields of hashes until its primary deletes them; only commands from the primary see them. By the time an
//! engine has applied the log up to an offset, much has expired that had not when the leader was there. So keys are read by a script that is
//! inserted into the stream and publishes what it finds.

use std::time::Duration;

use durability_protocol::audit::{
    facts, read_scan, value_command, Facts, Found, Kind, Pick, Picker, Reading, Sample, Value, SCAN_COUNT,
};
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame;

use super::client::encode;
use super::{Engine, EngineError, Feed, OpenImport};

/// How long a script may take.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60);

/// Its arguments are a channel, then commands, each after its database and its number of words. It publishes an array of their replies. The
/// reply to HGETALL is followed by the reply to HPEXPIRETIME for the same fields.
const SCRIPT: &str = r"
local out, replies = {}, 0
local function put(value)
    local kind = type(value)
    if kind == 'string' then
        out[#out + 1] = '$' .. #value .. '\r\n' .. value .. '\r\n'
    elseif kind == 'number' then
        out[#out + 1] = ':' .. string.format('%.0f', value) .. '\r\n'
    elseif kind == 'table' and value.ok then
        put(value.ok)
    elseif kind == 'table' and not value.err then
        out[#out + 1] = '*' .. #value .. '\r\n'
        for at = 1, #value do put(value[at]) end
    else
        out[#out + 1] = '$-1\r\n'
    end
end
local function run(command)
    local reply = server.pcall(unpack(command))
    replies = replies + 1
    put(reply)
    return reply
end
local at = 2
while at <= #ARGV do
    server.pcall('SELECT', ARGV[at])
    local command = {}
    for word = 1, tonumber(ARGV[at + 1]) do command[word] = ARGV[at + 1 + word] end
    at = at + 2 + #command
    local reply = run(command)
    if command[1] == 'HGETALL' then
        local fields = {}
        if type(reply) == 'table' and not reply.err then
            for field = 1, #reply, 2 do fields[#fields + 1] = reply[field] end
        end
        if #fields == 0 then
            replies = replies + 1
            put({})
        else
            run({'HPEXPIRETIME', command[2], 'FIELDS', tostring(#fields), unpack(fields)})
        end
    end
end
server.call('PUBLISH', ARGV[1], '*' .. replies .. '\r\n' .. table.concat(out))
";

/// The name of a key and the number of its database.
pub type Name = (u32, Vec<u8>);

/// Reads keys of an engine.
pub struct KeyReader<'a> {
    engine: &'a mut Engine,
    feed: &'a mut Feed,
    channel: String,
}

impl<'a> KeyReader<'a> {
    /// For an engine that has applied all of its feed.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn open(engine: &'a mut Engine, feed: &'a mut Feed) -> Result<Self, EngineError> {
        // The feed is silent while the leader is asked, and what is published may be large.
        engine.ask(&["CONFIG", "SET", "repl-timeout", "86400"]).await?;
        engine.ask(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0"]).await?;
        // An attacker who writes to the log knows neither this name nor the secret.
        let channel = format!("audit:{}", feed.secret);
        let subscribe = engine.name_of("SUBSCRIBE");
        let subscribed = engine.listener.query(&[subscribe.as_bytes(), channel.as_bytes()]).await;
        subscribed.map_err(|reason| EngineError::Answer { command: "SUBSCRIBE".to_owned(), reason })?;
        Ok(KeyReader { engine, feed, channel })
    }

    /// Applies the log up to `offset` (exclusive), which has to be durable and not before what is applied. Returns the offset up to which it
    /// is applied then: before `offset` if that is not the end of a command or transaction.
    ///
    /// # Errors
    /// The engine ended or stands still, or the feed broke off.
    pub async fn go_to(&mut self, offset: u64) -> Result<u64, EngineError> {
        self.feed.extend(offset);
        self.engine.catch_up(self.feed).await
    }

    /// The imports of slots that are open at `offset`, up to which the log is applied.
    pub fn open_imports(&self, offset: u64) -> Vec<OpenImport> {
        self.feed.open_imports(offset)
    }

    /// The number of keys of each database that has any.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn key_counts(&mut self) -> Result<Vec<(u32, u64)>, EngineError> {
        self.engine.key_counts().await
    }

    /// Draws about `keys` keys that have not expired.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn draw(&mut self, keys: u64) -> Result<Vec<Name>, EngineError> {
        let databases = self.key_counts().await?;
        let mut picker = Picker::new(keys, &databases, || getrandom::u64().unwrap_or(1));
        let mut drawn = Vec::new();
        loop {
            match picker.pick() {
                Pick::Done => return Ok(drawn),
                Pick::Key(database, key) => drawn.push((database, key)),
                Pick::Scan { database, cursor } => {
                    self.engine.ask(&["SELECT", &database.to_string()]).await?;
                    let (cursor, count) = (cursor.to_string(), SCAN_COUNT.to_string());
                    let command: [&[u8]; 4] = [b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()];
                    let reply = value(&self.engine.query(&command).await?);
                    let (cursor, keys) = read_scan(&reply)
                        .map_err(|reason| EngineError::Answer { command: "SCAN".to_owned(), reason })?;
                    picker.scanned(cursor, keys);
                }
            }
        }
    }

    /// Reads the keys that `samples` name, at the offset up to which the log is applied, and of each as much as the sample holds. `time_ms`
    /// is the leader's clock when it read them, in milliseconds since 1970.
    ///
    /// # Errors
    /// The engine ended, or answered something unexpected.
    pub async fn read(&mut self, samples: &[Sample], time_ms: u64) -> Result<Vec<Found>, EngineError> {
        let answer = |reason| EngineError::Answer { command: "EVAL".to_owned(), reason };
        let eval = self.engine.name_of("EVAL");
        let mut words: Vec<Vec<u8>> =
            [eval.as_str(), SCRIPT, "0", &self.channel].map(|word| word.as_bytes().to_vec()).into();
        for Sample { database, key, found } in samples {
            for command in commands(key, found) {
                words.push(database.to_string().into_bytes());
                words.push(command.len().to_string().into_bytes());
                words.extend(command);
            }
        }
        let words: Vec<_> = words.iter().map(Vec::as_slice).collect();
        self.feed.insert(encode(&words).map_err(answer)?.to_vec());
        let replies = self.published().await?;
        let mut replies = replies.items().map_err(answer)?.iter();
        samples.iter().map(|sample| found(&sample.found, &mut replies, time_ms).map_err(answer)).collect()
    }

    async fn published(&mut self) -> Result<Value, EngineError> {
        let answer = |reason| EngineError::Answer { command: "EVAL".to_owned(), reason };
        let message = match tokio::time::timeout(SCRIPT_TIMEOUT, self.engine.listener.next()).await {
            Ok(Ok(message)) => message,
            Ok(Err(reason)) => return Err(self.engine.ended_or(answer(reason)).await),
            Err(_) => {
                let reason = format!("nothing within {} s", SCRIPT_TIMEOUT.as_secs());
                return Err(self.feed.failure().map_or_else(|| answer(reason), EngineError::from));
            }
        };
        let BytesFrame::Array(parts) = &message else { return Err(answer("it published no message".to_owned())) };
        let Some(BytesFrame::BulkString(payload)) = parts.get(2) else {
            return Err(answer("it published nothing".to_owned()));
        };
        match decode_bytes(payload) {
            Ok(Some((frame, used))) if used == payload.len() => Ok(value(&frame)),
            _ => Err(answer("what it published is no reply".to_owned())),
        }
    }
}

/// The commands that read a key as far as the leader has.
fn commands(key: &[u8], found: &Found) -> Vec<Vec<Vec<u8>>> {
    let words = |before: &[&str], after: &[&str]| {
        let bytes = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        [bytes(before), vec![key.to_vec()], bytes(after)].concat()
    };
    let mut commands = vec![words(&["TYPE"], &[]), words(&["PEXPIRETIME"], &[])];
    if let Found::Key(facts) = found {
        commands.push(words(&[facts.kind.length_command()], &[]));
        commands.extend(value_command(facts.kind, facts.parts()).map(|(before, after)| words(before, after)));
    }
    commands
}

/// Reads the replies to [`commands`].
fn found<'r>(asked: &Found, replies: &mut impl Iterator<Item = &'r Value>, time_ms: u64) -> Result<Found, String> {
    let mut next = || replies.next().ok_or_else(|| "there are fewer replies than commands".to_owned());
    let (word, expire_time_ms) = (next()?, next()?.number()?);
    let Value::Bytes(word) = word else { return Err("TYPE answered no text".to_owned()) };
    let kind = Kind::from_word(word);
    let mut read = None;
    if let Found::Key(facts) = asked {
        let length = next()?;
        let value = value_command(facts.kind, facts.parts()).map(|_| next()).transpose()?.cloned();
        let is_hash = facts.kind == Kind::Hash && value.is_some();
        let field_times = if is_hash { Some(next()?.clone()) } else { None };
        read = Some((facts, length, value, field_times));
    }
    let Some(kind) = kind else {
        return Ok(if word == b"none" { Found::Nothing } else { Found::OtherType });
    };
    match read {
        Some((asked, length, value, field_times)) if asked.kind == kind => {
            let length = u64::try_from(length.number()?).map_err(|error| error.to_string())?;
            let parts = asked.parts();
            facts(&Reading { kind, length, expire_time_ms, parts, value, field_times }, time_ms).map(Found::Key)
        }
        _ => {
            let expires_at_ms = u64::try_from(expire_time_ms).ok();
            let facts =
                Facts { kind, length: 0, expires_at_ms, value: None, fields: None, groups: None, consumers: None };
            Ok(Found::Key(facts))
        }
    }
}

fn value(frame: &BytesFrame) -> Value {
    match frame {
        BytesFrame::BulkString(bytes) | BytesFrame::SimpleString(bytes) => Value::Bytes(bytes.to_vec()),
        BytesFrame::Integer(number) => Value::Integer(*number),
        BytesFrame::Array(items) => Value::Array(items.iter().map(value).collect()),
        BytesFrame::Error(_) | BytesFrame::Null => Value::Nil,
    }
}
