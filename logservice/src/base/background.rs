//! Work that gives way to everything else on the machine, so that the threads that acknowledge appends never wait behind it for a core.

use std::thread;

use tokio::sync::oneshot;

/// From now on the calling thread, and the program that it becomes by `exec`, runs only when nothing else wants the core. Not for threads of
/// this process: they hold locks that others wait for.
pub fn give_way() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads its argument, which lives as long as the call. It changes only this thread's scheduling, and is safe
    // between fork and exec.
    let is_idle = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters) } == 0;
    if !is_idle {
        be_nice();
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
