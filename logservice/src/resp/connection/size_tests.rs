use tokio::sync::watch;

use crate::resp::fuzz;

/// A connection waits for one thing at a time, and has room for the largest of them. Rare commands, and what a replica is sent, have to be
/// in boxes, as a service has thousands of connections that do nothing.
const MOST_BYTES: usize = 4 << 10;

#[tokio::test]
async fn a_connection_that_does_nothing_takes_little_memory() {
    let shared = fuzz::shared(None);
    let (connection, _client) = fuzz::connection(&shared).await;
    let (_stop, stopping) = watch::channel(false);
    let bytes = std::mem::size_of_val(&connection.serve(stopping));
    assert!(bytes <= MOST_BYTES, "{bytes} bytes");
}
