//! Who was harmed when: written to a file, and into the histories that are being recorded.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use durability_histories::history::Recorder;

/// What was noted goes here.
#[derive(Debug)]
pub struct Notes {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    recorders: Vec<Arc<Recorder>>,
}

impl Notes {
    /// Writes to that file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(file: &Path) -> Result<Self> {
        let inner = Inner { file: File::create(file)?, recorders: Vec::new() };
        Ok(Notes { began: Instant::now(), inner: Mutex::new(inner) })
    }

    /// Something happened.
    pub fn add(&self, what: &str) {
        let mut inner = self.lock();
        // As the logs of the nodes tell the time.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = format!("{:.3} s, {:.3}: {what}", self.began.elapsed().as_secs_f64(), unix.as_secs_f64());
        // The file only helps whoever looks for a cause.
        let _ = writeln!(inner.file, "{line}");
        inner.recorders.iter().for_each(|recorder| recorder.note(line.as_str()));
    }

    /// From now on this history is told as well.
    pub fn tell(&self, recorder: &Arc<Recorder>) {
        self.lock().recorders.push(Arc::clone(recorder));
    }

    /// This history is over.
    pub fn forget(&self, recorder: &Arc<Recorder>) {
        self.lock().recorders.retain(|other| !Arc::ptr_eq(other, recorder));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
