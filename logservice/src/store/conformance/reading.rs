//! Readers at any offset, limits, trimmed log, damage.

use super::harness::{pattern, Log, MIB, SHARD};
use super::Make;
use crate::store::ReadError;

/// Also over the edges between parts of the log.
pub fn what_was_appended_is_read_from_any_offset_also_after_reopening(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    for bytes in [1, 7, 8, 4096, 300_000, MIB, MIB, MIB, 5, 70_000] {
        log.append(&*subject, bytes);
    }
    let end = log.end;
    let everywhere = [0, 1, 15, 16, 5000, 1_000_000, 2_000_001, end - 70_001, end - 70_000, end - 1];
    everywhere.iter().for_each(|from| log.assert_holds_pattern(*from));
    log.store.close();
    let mut log = Log::open(&*subject);
    assert_eq!(log.end, end);
    everywhere.iter().for_each(|from| log.assert_holds_pattern(*from));
    log.append(&*subject, 12_345);
    log.assert_holds_pattern(0);
}

/// At least one byte, at most as many as were asked for, none at or beyond the limit.
pub fn a_reader_returns_no_more_than_it_may(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    for _ in 0..20 {
        log.append(&*subject, 50);
    }
    for (limit, at_a_time) in [(1, 1), (2, 1000), (49, 7), (50, 1000), (51, 1000), (999, 49), (1000, 51), (1000, 1)] {
        let mut reader = log.store.reader(0).expect("opened");
        let mut read = Vec::new();
        while reader.offset() < limit {
            assert_eq!(reader.offset(), read.len() as u64);
            let bytes = reader.read(limit, at_a_time).expect("read");
            assert!((1..=at_a_time).contains(&bytes.len()), "{} bytes of at most {at_a_time}", bytes.len());
            read.extend_from_slice(&bytes);
        }
        assert!(read == pattern(0, limit as usize), "limit {limit}, {at_a_time} at a time");
    }
}

/// Without being opened again.
pub fn a_reader_goes_on_with_what_is_appended_later(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    log.append(&*subject, 10);
    let mut reader = log.store.reader(3).expect("opened");
    let mut read = Vec::new();
    for bytes in [1, 1000, MIB, 1, MIB, MIB, 17] {
        while reader.offset() < log.end {
            read.extend_from_slice(&reader.read(log.end, 1 << 16).expect("read"));
        }
        log.append(&*subject, bytes);
    }
    assert!(read == pattern(3, read.len()));
    assert_eq!(reader.offset(), log.end - 17);
}

/// Each has a place of its own.
pub fn several_readers_do_not_disturb_each_other(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    for _ in 0..10 {
        log.append(&*subject, 1000);
    }
    let mut readers: Vec<_> = (0..10).map(|number| log.store.reader(number * 777).expect("opened")).collect();
    for turn in 0..200 {
        let reader = &mut readers[turn * 7 % 10];
        let from = reader.offset();
        if from < log.end {
            let bytes = reader.read(log.end, 100 + turn).expect("read");
            assert!(bytes == pattern(from, bytes.len()), "at {from}");
        }
    }
}

/// The base says what is needed, not what is there.
pub fn log_below_the_base_can_be_read_until_it_is_dropped(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    for _ in 0..4 {
        log.append(&*subject, MIB);
    }
    log.set_base(3 * MIB as u64 + 5);
    log.assert_holds_pattern(17);
}

/// Whatever else of it is kept.
pub fn trimming_keeps_what_is_above_and_frees_space(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    for _ in 0..6 {
        log.append(&*subject, MIB);
    }
    // What a store tells of its size is that of its own medium.
    subject.wait_for_medium(SHARD);
    let before = log.store.usage();
    let base = (3 << 20) + 5;
    log.set_base(base);
    log.store.trim(base).expect("trimmed");
    let after = log.store.usage();
    assert!(after.log_bytes < before.log_bytes && after.parts < before.parts, "{before:?} {after:?}");
    match log.read(10, 1000, 1000) {
        Err(ReadError::Trimmed { offset: 10 }) => {}
        // It may keep some.
        Ok(bytes) => assert!(bytes == pattern(10, 990)),
        Err(error) => panic!("{error}"),
    }
    log.assert_holds_pattern(base);
    log.store.trim(base).expect("trimmed again");
    log.append(&*subject, 10);
    let end = log.end;
    log.store.close();
    let mut log = Log::open(&*subject);
    assert_eq!(log.end, end);
    log.append(&*subject, 10);
    log.assert_holds_pattern(base);
}

/// So what was trimmed may be used for something else.
pub fn a_reader_below_what_was_trimmed_gets_true_bytes_or_an_error(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    for _ in 0..3 {
        log.append(&*subject, MIB);
    }
    let mut reader = log.store.reader(10).expect("opened");
    log.set_base(log.end);
    log.store.trim(log.end).expect("trimmed");
    for _ in 0..4 {
        log.append(&*subject, MIB);
    }
    while reader.offset() < log.end {
        let from = reader.offset();
        let Ok(bytes) = reader.read(log.end, 100_000) else { return };
        assert!(bytes == pattern(from, bytes.len()), "wrong bytes at {from}");
    }
}

/// What is sound before them is.
pub fn damaged_bytes_are_never_returned(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    for _ in 0..10 {
        log.append(&*subject, 100);
    }
    subject.damage(SHARD, 333);
    for from in [0, 250, 300, 333] {
        let mut reader = log.store.reader(from).expect("opened");
        let mut read = Vec::new();
        let error = loop {
            match reader.read(log.end, 1000) {
                Ok(bytes) => read.extend_from_slice(&bytes),
                Err(error) => break error,
            }
            assert!(reader.offset() < log.end, "damage was returned from {from}");
        };
        assert!(matches!(error, ReadError::Damaged(_)), "{error}");
        assert!(read == pattern(from, 300_u64.saturating_sub(from) as usize), "from {from}: {} bytes", read.len());
    }
}
