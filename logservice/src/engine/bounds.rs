//! Bounds of an engine: time and memory.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

/// How much time and memory an engine may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How long it may make no progress, or leave a quick command unanswered.
    pub stall: Duration,
    /// Bytes that it has to process per second at least.
    pub bytes_per_second: u64,
    /// The most address space in bytes; `None` is no bound.
    pub memory_bytes: Option<u64>,
}

impl Bounds {
    /// How long work on so many bytes may take.
    pub fn time_for(&self, bytes: u64) -> Duration {
        self.stall + Duration::from_secs(bytes / self.bytes_per_second.max(1))
    }
}

/// Counts an engine's time against a bound. Time in which it was ready to run and other work had the core does not count, as an engine that
/// gives way to everything else could finish nothing in time on a busy machine.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pid: Option<u32>,
    began: Instant,
    waited: Duration,
}

impl Clock {
    /// Counts the time of that process from now on.
    pub fn start(pid: Option<u32>) -> Self {
        Clock { pid, began: Instant::now(), waited: waited_for_core(pid) }
    }

    /// When so much of its time is over, as far as is known now. It becomes later if the process has to wait for a core.
    pub fn deadline(&self, limit: Duration) -> Instant {
        self.began + limit + waited_for_core(self.pid).saturating_sub(self.waited)
    }
}

/// How long the main thread of that process has waited for a core since it began; zero where the system does not report it.
fn waited_for_core(pid: Option<u32>) -> Duration {
    let text = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok());
    text.and_then(|text| parse_schedstat(&text)).unwrap_or_default()
}

/// Reads the second of three numbers: time on a core, time of waiting for one (both in nanoseconds), and number of turns.
fn parse_schedstat(text: &str) -> Option<Duration> {
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// The memory that this process can have, in bytes: the machine's with its swap, or what its control group allows if that is less. `None`
/// if neither is known.
pub fn machine_memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_meminfo(&text));
    let group = std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| group_memory(&text));
    machine.into_iter().chain(group).min()
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let kibibytes = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse().ok())
    };
    Some((kibibytes("MemTotal:")? + kibibytes("SwapTotal:").unwrap_or(0)) << 10)
}

/// The least that the control groups (version 2) of this process allow.
fn group_memory(text: &str) -> Option<u64> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = |group: &Path| -> Option<u64> {
        let path = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    Path::new(path).ancestors().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_grows_with_the_data() {
        let bounds = Bounds { stall: Duration::from_secs(120), bytes_per_second: 1 << 20, memory_bytes: None };
        assert_eq!(bounds.time_for(0), Duration::from_secs(120));
        assert_eq!(bounds.time_for(1 << 30), Duration::from_secs(120 + 1024));
    }

    #[test]
    fn the_time_of_waiting_for_a_core_is_not_the_engines() {
        assert_eq!(parse_schedstat("126800 5000000 14\n"), Some(Duration::from_millis(5)));
        assert_eq!(parse_schedstat(""), None);
        let now = Instant::now();
        let clock = Clock { pid: None, began: now, waited: Duration::ZERO };
        assert_eq!(clock.deadline(Duration::from_secs(1)), now + Duration::from_secs(1));
    }

    #[test]
    fn the_memory_of_the_machine_counts_swap() {
        let text = "MemTotal:       24586748 kB\nMemFree:        1 kB\nSwapTotal:      1000 kB\n";
        assert_eq!(parse_meminfo(text), Some(24_587_748 << 10));
        assert_eq!(parse_meminfo("nothing"), None);
        assert!(machine_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
