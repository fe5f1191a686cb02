//! A well-behaved client beside the others: it appends, and notes how long it waits.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply, Service};

/// The longest that an append may take beside clients that are hostile, on a machine that is busy with other tests.
const SERVED_WITHIN: Duration = Duration::from_secs(5);

pub struct Witness {
    stop: Arc<AtomicBool>,
    appending: JoinHandle<(u64, Duration)>,
}

impl Witness {
    /// Leads the shard `witness` and appends to it, one append after the other. `token` opens it, if one is needed.
    pub fn start(service: &Service, token: Option<&str>) -> Self {
        Self::start_at(service.listen_address(), token)
    }

    /// As [`Witness::start`], at a service that listens at `address`.
    pub fn start_at(address: SocketAddr, token: Option<&str>) -> Self {
        let mut client = Client::connect(address);
        if let Some(token) = token {
            client.ok(&["AUTH", "witness", token]);
        }
        let (epoch, end) = client.acquire("witness", "w", 0, 60_000).expect("acquired");
        client.ok(&["LOG.BEGIN", "witness", &epoch.to_string(), &"f".repeat(40), &end.to_string()]);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let appending = std::thread::spawn(move || {
            let (mut appends, mut longest) = (0, Duration::ZERO);
            // Once at least, even if all is over before this thread runs.
            while appends == 0 || !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                assert_eq!(client.append("witness", epoch, end + appends, b"x"), Reply::Integer(end + appends + 1));
                longest = longest.max(begun.elapsed());
                appends += 1;
                // Leaves the processor to the others.
                std::thread::sleep(Duration::from_millis(1));
            }
            (appends, longest)
        });
        Witness { stop, appending }
    }

    /// Expects that it was served all the time.
    pub fn assert_served(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (appends, longest) = self.appending.join().expect("every append was acknowledged");
        assert!(appends > 0 && longest < SERVED_WITHIN, "{appends} appends, the longest took {longest:?}");
    }
}
