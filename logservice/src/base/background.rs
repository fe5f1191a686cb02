//! Work that gives way to everything else on the machine, so that the threads that acknowledge appends never wait behind it for a core.

use std::thread;

use rustix::process::Pid;
use tokio::sync::oneshot;

/// How much of a core work gets that others want as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// As much as they do.
    Normal,
    /// A tenth of that. So it is in the way of nobody for long, and ends on a machine that is never idle.
    Low,
    /// Next to nothing.
    Idle,
}

/// The nice value of [`Priority::Low`].
const LOW_NICE: i32 = 10;
/// That of threads of this process whose work has [`Priority::Idle`]. They get a little, so that they hold no lock for long for which
/// others wait.
const IDLE_NICE: i32 = 19;

/// From now on the child process of that id, with all its threads, has that priority. Not for this process: its
/// threads hold locks that others wait for. Nor for a child that is still a copy of this process: it holds all files of this one, ports
/// that are listened on as well, until it has become another program, which may then take seconds. Nothing is done if the child has ended.
/// Blocks for moments.
pub fn give_way(pid: u32, priority: Priority) {
    let change = match priority {
        Priority::Normal => return,
        Priority::Low => |thread| be_nice(thread, LOW_NICE),
        Priority::Idle => only_when_idle,
    };
    // First: threads that it starts from then on are as it is, and those that it has started before are listed then.
    change(pid);
    let listed = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).for_each(change);
}

/// Gives a thread a nice value. It may have ended.
fn be_nice(thread: u32, nice: i32) {
    if let Some(thread) = Pid::from_raw(thread as libc::pid_t) {
        let _ = rustix::process::setpriority_process(Some(thread), nice);
    }
}

/// Has a thread run only when nothing else wants the core, or seldom if the system does not allow that. It may have ended.
fn only_when_idle(thread: u32) {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads its argument, which lives as long as the call. It changes only the scheduling of that thread.
    let is_idle = unsafe { libc::sched_setscheduler(thread as libc::pid_t, libc::SCHED_IDLE, &parameters) } == 0;
    if !is_idle {
        be_nice(thread, IDLE_NICE);
    }
}

/// From now on the calling thread has that priority, or a lower one that it had. It still gets a small share of a busy core, so that it does
/// not hold for long a lock that others wait for.
pub fn give_way_here(priority: Priority) {
    let nice = match priority {
        Priority::Normal => return,
        Priority::Low => LOW_NICE,
        Priority::Idle => IDLE_NICE,
    };
    // Lowering the own priority is always allowed.
    let _ = rustix::process::nice(nice);
}

/// Runs `work` on a thread of its own, of that priority. Dropping what is returned does not end it.
pub async fn run<T: Send + 'static>(
    priority: Priority,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    let (sender, done) = oneshot::channel();
    thread::Builder::new().name("background".to_owned()).spawn(move || {
        give_way_here(priority);
        // The caller may be gone.
        let _ = sender.send(work());
    })?;
    done.await.map_err(|_| std::io::Error::other("a background thread panicked"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_gives_way_with_all_its_threads() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("started");
        give_way(child.id(), Priority::Low);
        let nice = rustix::process::getpriority_process(Pid::from_raw(child.id() as libc::pid_t)).expect("it runs");
        give_way(child.id(), Priority::Idle);
        // SAFETY: the call only reads the scheduling of a process.
        let policy = unsafe { libc::sched_getscheduler(child.id() as libc::pid_t) };
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert_eq!((nice, policy), (LOW_NICE, libc::SCHED_IDLE));
        // It is gone, and that is no error.
        give_way(child.id(), Priority::Idle);
    }
}
