//! Records of several frames, which are several writes under one sync.

use std::sync::{Arc, Mutex};

use fail::FailScenario;
use logservice::store::file_store::files::Step;
use logservice::store::file_store::form::FRAME_BYTES;
use logservice::store::file_store::format::{record_bytes, RecordHeader, SegmentHeader, SEGMENT_HEADER_BYTES};

use crate::common::memory_directory;
use crate::harness::{overwrite, read_at, segments, Log};
use crate::image::Image;
use crate::life::{assert_kept, Promised};
use crate::lost_sectors::{check, windows};

/// Frames of the records here.
const FRAMES: usize = 3;
const LENGTH: usize = (FRAMES - 1) * FRAME_BYTES + 1000;
const BEFORE: usize = 100;

fn promised(durable: u64) -> Promised {
    Promised { durable, ..Promised::default() }
}

/// And what is written then lies where the record has left its first frames.
#[test]
fn a_process_that_ends_between_any_two_writes_of_a_record_loses_nothing_acknowledged() {
    let _scenario = FailScenario::setup();
    let directory = memory_directory();
    let mut log = Log::open(directory.path()).expect("opens");
    log.append(BEFORE);
    let images: Arc<Mutex<Vec<Image>>> = Arc::default();
    for step in [Step::RecordWrite, Step::RecordSync] {
        let (images, live) = (images.clone(), directory.path().to_owned());
        fail::cfg_callback(step.name(), move || images.lock().expect("lock").push(Image::take(&live)))
            .expect("configured");
    }
    log.append(LENGTH);
    drop(log);
    fail::remove(Step::RecordWrite.name());
    fail::remove(Step::RecordSync.name());
    let images = std::mem::take(&mut *images.lock().expect("lock"));
    // A write of each frame, that of the header, and the sync.
    assert_eq!(images.len(), FRAMES + 2);
    for (number, image) in images.iter().enumerate() {
        let crashed = memory_directory();
        image.write(crashed.path());
        let found = Log::open(crashed.path()).expect("opens");
        // The last image is of a record that is whole, although it was not synced.
        let expected = if number < FRAMES + 1 { BEFORE } else { BEFORE + LENGTH };
        assert_eq!(found.end, expected as u64, "{number} steps");
        drop(found);
        let mut log = Log::open(crashed.path()).expect("opens again");
        log.append(LENGTH - 7);
        drop(log);
        assert_kept(crashed.path(), &promised((expected + LENGTH - 7) as u64), &format!("{number} steps"));
    }
}

#[test]
fn whatever_sectors_of_a_record_a_crash_leaves_everything_acknowledged_is_there() {
    let _scenario = FailScenario::setup();
    let promises: Arc<Mutex<Promised>> = Arc::default();
    let of_life = windows((Step::RecordWrite, Step::RecordSync), &promises, |directory| {
        let mut log = Log::open(directory).map_err(|error| error.to_string())?;
        for bytes in [BEFORE, LENGTH, LENGTH + 3] {
            log.append(bytes);
            promises.lock().expect("lock").durable = log.end;
        }
        Ok(())
    });
    assert_eq!(of_life.len(), 3);
    check(of_life, assert_kept);
}

#[test]
fn a_record_that_fails_at_any_of_its_writes_is_told_and_loses_nothing_acknowledged() {
    for passed in 0..=FRAMES {
        for fault in ["eio", "enospc", "short"] {
            let what = format!("{fault} after {passed}");
            let _scenario = FailScenario::setup();
            let directory = memory_directory();
            let mut log = Log::open(directory.path()).expect("opens");
            log.append(BEFORE);
            let action = format!("{passed}*off->1*return({fault})->off");
            fail::cfg(Step::RecordWrite.name(), &action).expect("configured");
            log.submit(LENGTH);
            let seen = log.events.wait(|seen| seen.failed.is_some());
            assert_eq!(seen.durable, BEFORE as u64, "{what}");
            fail::remove(Step::RecordWrite.name());
            drop(log);
            assert_kept(directory.path(), &promised(BEFORE as u64), &what);
        }
    }
}

#[test]
fn a_torn_record_of_several_frames_is_cut_whichever_frame_is_missing() {
    // Failpoints belong to the whole process: no other test may set one meanwhile.
    let _scenario = FailScenario::setup();
    let directory = memory_directory();
    let mut log = Log::open(directory.path()).expect("opens");
    log.append(BEFORE);
    log.append(LENGTH);
    drop(log);
    let path = segments(directory.path()).remove(0);
    let header = SegmentHeader::decode(&read_at(&path, 0, SEGMENT_HEADER_BYTES as usize)).expect("sound");
    let position = SEGMENT_HEADER_BYTES + record_bytes(header.form.stored_bytes(BEFORE)) as u64;
    let bytes = record_bytes(header.form.stored_bytes(LENGTH));
    let sound = read_at(&path, position, bytes);
    assert!(RecordHeader::decode(&sound, header.salt).is_some());
    for number in 0..FRAMES {
        let mut torn = sound.clone();
        let from = 64 + number * FRAME_BYTES;
        torn[from..(from + FRAME_BYTES).min(64 + LENGTH)].fill(0);
        overwrite(&path, position, &torn);
        assert_eq!(Log::open(directory.path()).expect("opens").end, BEFORE as u64, "frame {number}");
    }
    assert_kept(directory.path(), &promised(BEFORE as u64), "all");
}
