//! Writes by the `redis` crate's own clients of clusters, to keys of each tag at a time, until it is ended.
//! Prints what `tests/cluster/clients/valkey_py.py` prints.
//!
//!     durability-cluster-client sync|async HOST PORT,... NAME TAG...

use std::error::Error;
use std::io::Write;
use std::thread::{scope, sleep};
use std::time::Duration;

use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncCommands, Commands, RedisResult};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, host, ports, name, tags @ ..] = arguments.as_slice() else {
        return Err("sync|async HOST PORT,... NAME TAG...".into());
    };
    let nodes: Vec<_> = ports.split(',').map(|port| format!("redis://{host}:{port}")).collect();
    let client =
        &ClusterClient::builder(nodes).connection_timeout(ANSWER_TIMEOUT).response_timeout(ANSWER_TIMEOUT).build()?;
    match way.as_str() {
        "sync" => scope(|threads| {
            for tag in tags {
                threads.spawn(move || write_all(client, name, tag).unwrap_or_else(|error| panic!("{tag}: {error}")));
            }
        }),
        _ => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(write_all_async(client, name, tags))?,
    }
    Ok(())
}

/// Writes until the test is gone. A connection that has failed is replaced: it would go on asking for a node that is dead.
fn write_all(client: &ClusterClient, name: &str, tag: &str) -> Result<(), Box<dyn Error>> {
    let mut connection = None;
    for number in 1_u64.. {
        let answer = write(client, &mut connection, &key(name, tag, number), number);
        if answer.is_err() {
            connection = None;
        }
        sleep(say(tag, number, answer)?);
    }
    Ok(())
}

fn write(
    client: &ClusterClient,
    connection: &mut Option<redis::cluster::ClusterConnection>,
    key: &str,
    number: u64,
) -> RedisResult<()> {
    let connection = match connection {
        Some(connection) => connection,
        none => none.insert(client.get_connection()?),
    };
    connection.set(key, number)
}

/// Writes to all tags at a time by one connection, which is never replaced, until the test is gone.
async fn write_all_async(client: &ClusterClient, name: &str, tags: &[String]) -> Result<(), Box<dyn Error>> {
    let connection = client.get_async_connection().await?;
    let tasks: Vec<_> =
        tags.iter().map(|tag| tokio::spawn(write_to_tag(connection.clone(), name.into(), tag.clone()))).collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn write_to_tag(mut connection: ClusterConnection, name: String, tag: String) -> std::io::Result<()> {
    for number in 1_u64.. {
        let answer = connection.set(key(&name, &tag, number), number).await;
        tokio::time::sleep(say(&tag, number, answer)?).await;
    }
    Ok(())
}

fn key(name: &str, tag: &str, number: u64) -> String {
    format!("{name}{{{tag}}}:{number}")
}

/// Returns how long to pause. Fails when the test is gone.
fn say(tag: &str, number: u64, answer: RedisResult<()>) -> std::io::Result<Duration> {
    let (line, pause) = match answer {
        Ok(()) => (format!(r#"{{"tag": "{tag}", "write": {number}}}"#), PAUSE),
        Err(error) => {
            let text = error.to_string().replace(['"', '\\', '\r', '\n'], " ");
            let class = error.kind();
            (format!(r#"{{"tag": "{tag}", "error": "{class:?}", "text": "{text}"}}"#), PAUSE_AFTER_ERROR)
        }
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(pause)
}
