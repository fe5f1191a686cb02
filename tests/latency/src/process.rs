//! What the system says of processes, and what this one asks of it.

use std::num::NonZeroU64;
use std::time::Duration;

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

use crate::Result;

/// As long as it lives, timers of this thread end when they are to, not 50 microseconds later. Processes that are started
/// meanwhile would inherit it.
pub struct Punctual(());

impl Punctual {
    /// For the calling thread.
    pub fn new() -> Result<Self> {
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        Ok(Punctual(()))
    }
}

impl Drop for Punctual {
    fn drop(&mut self) {
        // What could be set can be set back.
        let _ = rustix::thread::set_current_timer_slack(None);
    }
}

/// Lets this process, and those that it starts, open as many files.
pub fn allow_open_files(count: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        let maximum = limit.maximum.map(|maximum| maximum.max(count));
        setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum })
            .map_err(|error| format!("{count} open files are needed (ulimit -n): {error}"))?;
    }
    Ok(())
}

/// Memory that the process has in RAM, in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// CPU time that the process's main thread has used.
pub fn main_thread_time(pid: u32) -> Result<Duration> {
    let schedule = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat"))?;
    let nanoseconds = schedule.split_whitespace().next().ok_or("schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
