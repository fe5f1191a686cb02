//! Acknowledgements of the log that come late, by a delay that changes all the time.

use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::processes::SHARD;
use durability_histories::connection::Connection;

const CHANGE_EVERY: Duration = Duration::from_millis(5);
const MOST_MS: u32 = 20;

/// After this the log service counts as away. It may stand still for as long as a crash's pause.
const TIMEOUT: Duration = Duration::from_millis(100);

/// A thread that changes the delay until this is dropped.
#[derive(Debug)]
pub struct Delays {
    /// Disconnected to stop the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Delays {
    /// Starts to delay the acknowledgements of the log services at `log_urls`.
    pub fn start(log_urls: Vec<String>, seed: u64) -> Self {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut random = StdRng::seed_from_u64(seed);
            let mut connections: Vec<Option<Connection>> = log_urls.iter().map(|_| None).collect();
            while stopped.recv_timeout(CHANGE_EVERY) == Err(RecvTimeoutError::Timeout) {
                let delay_ms = random.random_range(0..=MOST_MS);
                for (connection, log_url) in connections.iter_mut().zip(&log_urls) {
                    // It may be away at any time; then it is tried again.
                    *connection = change(connection.take(), log_url, delay_ms).ok();
                }
            }
        });
        Delays { stop: Some(stop), thread: Some(thread) }
    }
}

fn change(connection: Option<Connection>, log_url: &str, delay_ms: u32) -> Result<Connection> {
    let mut connection = connection.map_or_else(|| Connection::open(log_url, TIMEOUT), Ok)?;
    connection.command("LOG.DEBUG", &["DELAY-ACKS", SHARD, &delay_ms.to_string()])?;
    Ok(connection)
}

impl Drop for Delays {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed, and only means that nothing was delayed any more.
            let _ = thread.join();
        }
    }
}
