//! Opens the ports of the service when it starts.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::time::{sleep, Instant};

/// How long a port is waited for that is in use. The process that the service had before may be gone and its port not: a child in which it
/// was starting an engine holds all its files until the child has become another program, or has ended.
const FREE_WITHIN: Duration = Duration::from_secs(5);
/// How often it is tried again. The system does not tell when a port becomes free.
const EVERY: Duration = Duration::from_millis(20);

/// Listens on `address`, of which `what` is said in a log line. If its port is in use, waits for it for some seconds. Runs in the runtime.
///
/// # Errors
/// The system refuses it for another reason, or the port stays in use.
pub async fn listen_when_free(what: impl Display, address: impl ToSocketAddrs + Clone) -> io::Result<TcpListener> {
    listen_within(FREE_WITHIN, what, address).await
}

async fn listen_within(
    time: Duration,
    what: impl Display,
    address: impl ToSocketAddrs + Clone,
) -> io::Result<TcpListener> {
    let until = Instant::now() + time;
    let mut is_told = false;
    loop {
        match TcpListener::bind(address.clone()).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!("{what} is in use, and waited for: {} s at most", time.as_secs());
                }
                sleep(EVERY).await;
            }
            bound => return bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_still_in_use_is_waited_for() {
        let before = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = before.local_addr().expect("bound");
        let waiting = tokio::spawn(listen_when_free("--listen", address));
        // It has tried once by then.
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "the port is in use");
        drop(before);
        let listener = waiting.await.expect("no panic").expect("the port is free");
        assert_eq!(listener.local_addr().expect("bound"), address);
    }

    #[tokio::test]
    async fn a_port_that_stays_in_use_is_refused() {
        let before = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = before.local_addr().expect("bound");
        let refused = listen_within(2 * EVERY, "--listen", address).await.expect_err("it is in use");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
