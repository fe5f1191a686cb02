use std::sync::{Arc, Mutex};

use fail::FailScenario;
use logservice::store::file_store::files::Step;

use crate::common::memory_directory;
use crate::image::Image;
use crate::life::{assert_kept, Life, Promised};

/// Images taken of one step: enough that it stands in each part of a life.
const MAX_IMAGES: usize = 6;

/// Steps that happen only after another has failed.
fn cause(step: Step) -> Option<Step> {
    match step {
        Step::UnnamedRemove => Some(Step::SegmentHeaderWrite),
        Step::ManifestRemove => Some(Step::ManifestWrite),
        _ => None,
    }
}

fn is_write(step: Step) -> bool {
    use Step::*;
    matches!(step, RecordWrite | SegmentHeaderWrite | SpareWrite | ManifestWrite | CutWrite | LastRecordWrite)
}

/// Steps without which the log goes on: somebody reads of it in the service's log at most.
fn goes_on_without(step: Step) -> bool {
    use Step::*;
    matches!(step, SpareCreate | SpareWrite | SpareSync | SegmentRecycle)
}

fn is_of_spare(step: Step) -> bool {
    matches!(step, Step::SpareCreate | Step::SpareWrite | Step::SpareSync)
}

/// Those of a life: not those that end it, see `dropping.rs`, nor those of a copy that several services keep, see `copies.rs`,
/// nor those by which a shard is set aside that several services keep by now, see `tests/zones/growing_test.py`.
fn steps() -> impl Iterator<Item = Step> {
    use Step::*;
    let is_of_end = |step| matches!(step, DropRename | DropDirectorySync | DropRemove);
    let is_of_copy = |step| matches!(step, VoteCreate | VoteWrite | VoteSync | CopyRename | CopyDirectorySync);
    let is_of_aside = |step| matches!(step, AsideCreate | AsideRename | AsideDirectorySync);
    Step::ALL.iter().copied().filter(move |&step| !is_of_end(step) && !is_of_copy(step) && !is_of_aside(step))
}

fn life_with(step: Step) -> Life {
    Life { spare_is_held: !is_of_spare(step), ..Life::default() }
}

#[test]
fn a_machine_that_stops_before_any_step_loses_nothing_acknowledged() {
    for step in steps() {
        let _scenario = FailScenario::setup();
        let directory = memory_directory();
        let life = life_with(step);
        let images: Arc<Mutex<Vec<(Promised, Image)>>> = Arc::default();
        let (taken, promised, live) = (images.clone(), life.promised.clone(), directory.path().to_owned());
        fail::cfg_callback(step.name(), move || {
            let mut taken = taken.lock().expect("lock");
            let promised = promised.lock().expect("lock").clone();
            // Beside a log in use a spare is made by a thread of its own, and an image would be of no one moment.
            let is_alone = !is_of_spare(step) || promised.durable == 0;
            if taken.len() < MAX_IMAGES && is_alone {
                taken.push((promised, Image::take(&live)));
            }
        })
        .expect("configured");
        if let Some(cause) = cause(step) {
            fail::cfg(cause.name(), "1*return(enospc)").expect("configured");
        }
        let lived = life.live(directory.path());
        assert!(lived.is_ok() || cause(step).is_some(), "{step:?}: {lived:?}");
        fail::remove(step.name());
        let images = std::mem::take(&mut *images.lock().expect("lock"));
        assert!(!images.is_empty(), "{step:?} was never reached");
        for (number, (promised, image)) in images.into_iter().enumerate() {
            let crashed = memory_directory();
            image.write(crashed.path());
            assert_kept(crashed.path(), &promised, &format!("{step:?}, time {number}"));
        }
    }
}

#[test]
fn any_step_that_fails_is_told_and_loses_nothing_acknowledged() {
    let mut told = 0;
    for step in steps() {
        let faults: &[(&str, &str)] =
            &[("eio", "Input/output error"), ("enospc", "No space left on device"), ("short", "Input/output error")];
        for &(fault, text) in &faults[..if is_write(step) { 3 } else { 2 }] {
            for passed in [0, 2] {
                let what = format!("{step:?}, {fault} after {passed}");
                let _scenario = FailScenario::setup();
                let directory = memory_directory();
                let shard = directory.path().join("s1");
                let life = life_with(step);
                if let Some(cause) = cause(step) {
                    fail::cfg(cause.name(), "1*return(eio)").expect("configured");
                }
                fail::cfg(step.name(), &format!("{passed}*off->1*return({fault})->off")).expect("configured");
                let lived = life.live(&shard);
                fail::remove(step.name());
                match lived {
                    Err(told_text) if cause(step).is_none() => {
                        assert!(told_text.contains(text), "{what}: {told_text}");
                        assert!(told_text.contains(directory.path().to_str().expect("text")), "{what}: {told_text}");
                        told += 1;
                    }
                    Err(_) => {}
                    Ok(()) => assert!(passed > 0 || goes_on_without(step), "{what}: nobody was told"),
                }
                let promised = life.promised.lock().expect("lock").clone();
                assert_kept(&shard, &promised, &what);
            }
        }
    }
    assert!(told > Step::ALL.len());
}
