//! Work that gives way to everything else on the machine, so that the threads that acknowledge appends never wait behind it for a core.

use std::thread;

use rustix::process::Pid;
use tokio::sync::oneshot;

/// From now on the child process of that id, with all its threads, runs only when nothing else wants the core. Not for this process: its
/// threads hold locks that others wait for. Nor for a child that is still a copy of this process: it holds all files of this one, ports
/// that are listened on as well, until it has become another program, which may then take seconds. Nothing is done if the child has ended.
/// Blocks for moments.
pub fn give_way(pid: u32) {
    // First: threads that it starts from then on are as it is, and those that it has started before are listed then.
    only_when_idle(pid);
    let listed = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).for_each(only_when_idle);
}

/// Has a thread run only when nothing else wants the core, or seldom if the system does not allow that. It may have ended.
fn only_when_idle(thread: u32) {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads its argument, which lives as long as the call. It changes only the scheduling of that thread.
    let is_idle = unsafe { libc::sched_setscheduler(thread as libc::pid_t, libc::SCHED_IDLE, &parameters) } == 0;
    if let (false, Some(thread)) = (is_idle, Pid::from_raw(thread as libc::pid_t)) {
        let _ = rustix::process::setpriority_process(Some(thread), 19);
    }
}

/// From now on the calling thread gives way to others. It still gets a small share of a busy core, so that it does not hold for long a lock
/// that others wait for.
pub fn be_nice() {
    // Lowering the own priority is always allowed.
    let _ = rustix::process::nice(19);
}

/// Runs `work` on a thread of its own that gives way. Dropping what is returned does not end it.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
    let (sender, done) = oneshot::channel();
    thread::Builder::new().name("background".to_owned()).spawn(move || {
        be_nice();
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
        give_way(child.id());
        // SAFETY: the call only reads the scheduling of a process.
        let policy = unsafe { libc::sched_getscheduler(child.id() as libc::pid_t) };
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert_eq!(policy, libc::SCHED_IDLE);
        // It is gone, and that is no error.
        give_way(child.id());
    }
}
