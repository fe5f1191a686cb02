//! Writes to the leader and reads from a follower, both found by the `redis` crate's own client of Sentinels, until it is ended.
//! Prints what `clients/valkey_py.py` prints.
//!
//!     durability-sentinel-client HOST PORT,... SHARD TOKEN KEY

use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

use redis::sentinel::{SentinelClient, SentinelServerType};
use redis::{cmd, Commands, Connection, RedisResult, Value};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, ports, shard, token, key] = arguments.as_slice() else { return Err("five arguments".into()) };
    let sentinels: Vec<_> = ports.split(',').map(|port| format!("redis://{shard}:{token}@{host}:{port}")).collect();
    let find = |role| SentinelClient::build(sentinels.clone(), shard.clone(), None, role);
    let (mut leader, mut follower) = (find(SentinelServerType::Master)?, find(SentinelServerType::Replica)?);
    let mut connection = None;
    let mut number = 0;
    loop {
        number += 1;
        while let Err(error) = write(&mut leader, &mut connection, key, number) {
            connection = None;
            say(&format!("error {error}"))?;
            sleep(PAUSE_AFTER_ERROR);
        }
        say(&format!("write {number}"))?;
        if number % 10 == 0 {
            match read(&mut follower, key) {
                Ok(role) => say(&format!("read {role}"))?,
                Err(error) => say(&format!("error {error}"))?,
            }
        }
        sleep(PAUSE);
    }
}

fn write(leader: &mut SentinelClient, connection: &mut Option<Connection>, key: &str, number: u64) -> RedisResult<()> {
    let connection = match connection {
        Some(connection) => connection,
        none => none.insert(leader.get_connection()?),
    };
    connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    connection.set(key, number)
}

/// Reads by a connection of its own; answers the role of who answered.
fn read(follower: &mut SentinelClient, key: &str) -> RedisResult<String> {
    let mut connection = follower.get_connection()?;
    connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let _: Option<u64> = connection.get(key)?;
    let role: Vec<Value> = cmd("ROLE").query(&mut connection)?;
    redis::from_redis_value(role.into_iter().next().unwrap_or(Value::Nil)).map_err(Into::into)
}

/// Fails when the test is gone.
fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", line.replace('\n', " "))?;
    out.flush()
}
