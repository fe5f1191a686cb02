//! Work of a shard that waits for its group. It has a thread of its own, which runs only while the simulation waits for it: so it stands
//! still where it waits, and a seed gives the same steps each time.

use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::Arc;

use logservice::shard::Work;

/// What it waits for; none if it is over.
type Waits = Option<Arc<AtomicBool>>;

struct Here {
    waits: SyncSender<Waits>,
    go_on: Receiver<()>,
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// Waits until `is_so`. Called by work.
///
/// # Panics
/// Nobody lets it go on any more, or it is no work that calls.
pub fn wait_for(is_so: &Arc<AtomicBool>) {
    while !is_so.load(Ordering::Acquire) {
        HERE.with_borrow(|here| {
            let here = here.as_ref().unwrap_or_else(|| panic!("only work may wait"));
            let is_told = here.waits.send(Some(is_so.clone())).is_ok() && here.go_on.recv().is_ok();
            assert!(is_told, "the simulation is over");
        });
    }
}

/// Work that waits.
pub struct Waiting {
    waits: Receiver<Waits>,
    go_on: SyncSender<()>,
    is_so: Arc<AtomicBool>,
}

impl Waiting {
    /// Begins with it. None if it is over already.
    pub fn begin(work: Work) -> Option<Self> {
        let ((tell, waits), (go_on, told)) = (sync_channel(0), sync_channel(0));
        std::thread::spawn(move || {
            HERE.set(Some(Here { waits: tell, go_on: told }));
            // Whoever waits for its result is told that there is none.
            let _ = catch_unwind(AssertUnwindSafe(work));
            if let Some(here) = HERE.take() {
                let _ = here.waits.send(None);
            }
        });
        let is_so = waits.recv().ok()??;
        Some(Waiting { waits, go_on, is_so })
    }

    /// Whether it can go on.
    pub fn is_ready(&self) -> bool {
        self.is_so.load(Ordering::Acquire)
    }

    /// Lets it go on until it waits again. None if it is over.
    pub fn go_on(mut self) -> Option<Self> {
        self.go_on.send(()).ok()?;
        self.is_so = self.waits.recv().ok()??;
        Some(self)
    }
}
