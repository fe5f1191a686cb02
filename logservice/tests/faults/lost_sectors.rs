//! A machine that stops before a sync: of what was written since the last one, any sectors may be on the medium.

use std::path::Path;
use std::sync::{Arc, Mutex};

use fail::FailScenario;
use logservice::store::file_store::files::Step;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::common::memory_directory;
use crate::image::Image;
use crate::life::{assert_kept, Life};

const SECTOR_BYTES: usize = 512;
/// Of one pair of steps: the first times that they come in a life.
const MAX_WINDOWS: usize = 4;

/// A write and its sync.
const PAIRS: [(Step, Step); 5] = [
    (Step::RecordWrite, Step::RecordSync),
    (Step::SegmentHeaderWrite, Step::SegmentHeaderSync),
    (Step::ManifestWrite, Step::ManifestSync),
    (Step::CutWrite, Step::CutSync),
    (Step::LastRecordWrite, Step::LastRecordSync),
];

/// What was on the medium, what was written since, and what was promised meanwhile.
pub struct Window<P> {
    pub write: Step,
    pub promised: P,
    synced: Image,
    written: Image,
}

impl<P> Window<P> {
    /// What is on the medium if of the sectors that were written only some came there, in turn as in `kept`.
    pub fn image(&self, kept: &[bool]) -> Image {
        let mut kept = kept.iter().copied().cycle();
        let mut image = self.synced.clone();
        for (path, new) in self.written.0.iter() {
            let (Some(new), Some(Some(old))) = (new, image.0.get_mut(path)) else { continue };
            if new != old {
                if new.len() != old.len() && kept.next() == Some(true) {
                    old.resize(new.len(), 0);
                }
                for (old, new) in old.chunks_mut(SECTOR_BYTES).zip(new.chunks(SECTOR_BYTES)) {
                    if *old != new[..old.len()] && kept.next() == Some(true) {
                        old.copy_from_slice(&new[..old.len()]);
                    }
                }
            }
        }
        image
    }
}

/// The first times that a pair of steps comes while something lives, which notes what it has promised.
pub fn windows<P: Clone + Send + 'static>(
    (write, sync): (Step, Step),
    promised: &Arc<Mutex<P>>,
    live: impl FnOnce(&Path) -> Result<(), String>,
) -> Vec<Window<P>> {
    let directory = memory_directory();
    let images: Arc<Mutex<Vec<(P, Image)>>> = Arc::default();
    for (at, step) in [write, sync].into_iter().enumerate() {
        let (images, promised, live) = (images.clone(), promised.clone(), directory.path().to_owned());
        let callback = move || {
            let mut images = images.lock().expect("lock");
            // Several writes may share a sync: what was there before the first of them is what was synced.
            let is_written = images.len() % 2 == 1;
            if images.len() < 2 * MAX_WINDOWS && !(at == 0 && is_written) {
                assert_eq!(is_written, at == 1, "{sync:?} comes without {write:?}");
                let promised = promised.lock().expect("lock").clone();
                images.push((promised, Image::take(&live)));
            }
        };
        fail::cfg_callback(step.name(), callback).expect("configured");
    }
    live(directory.path()).expect("lives");
    fail::remove(write.name());
    fail::remove(sync.name());
    let images = std::mem::take(&mut *images.lock().expect("lock"));
    assert!(images.len() >= 2, "{write:?} was never reached");
    let mut windows: Vec<Window<P>> = Vec::new();
    for (number, (promised, image)) in images.into_iter().enumerate() {
        match windows.last_mut() {
            Some(window) if number % 2 == 1 => window.written = image,
            _ => windows.push(Window { write, promised, synced: image, written: Image::default() }),
        }
    }
    windows
}

#[test]
fn whatever_sectors_a_crash_leaves_everything_acknowledged_is_there() {
    // Also while nothing is to fail: no other test may make it.
    let _scenario = FailScenario::setup();
    let of_life = |pair| {
        let life = Life { spare_is_held: true, ..Life::default() };
        windows(pair, &life.promised, |directory| life.live(directory))
    };
    check(PAIRS.into_iter().flat_map(of_life).collect(), assert_kept);
}

/// Opens what crashes leave in each window.
pub fn check<P>(windows: Vec<Window<P>>, assert_kept: impl Fn(&Path, &P, &str)) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) };
    let kept = proptest::collection::vec(any::<bool>(), 1..40);
    let checked = TestRunner::new(config).run(&(0..windows.len(), kept), |(at, kept)| {
        let window = &windows[at];
        let crashed = memory_directory();
        window.image(&kept).write(crashed.path());
        assert_kept(crashed.path(), &window.promised, &format!("{:?}", window.write));
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
}
