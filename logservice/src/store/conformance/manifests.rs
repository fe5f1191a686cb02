//! Revisions, outcomes, starting the log anew.

use durability_protocol::SlotRanges;

use super::harness::{pattern, Log, MIB, SHARD};
use super::{Make, MakeInDoubt};
use crate::store::{
    ClusterSlots, Contents, Epoch, Leader, Manifest, ManifestError, Migrations, SlotMove, SnapshotRecord,
};

/// Neither by an older one nor by one that was never the next.
pub fn the_manifest_is_replaced_only_by_the_next_revision(make: Make) {
    let subject = make(None);
    let log = Log::open(&*subject);
    let first = log.store.manifest();
    let next = Manifest { seeded: true, ..first.next() };
    log.store.replace_manifest(next.clone()).expect("replaced");
    for stale in [first.clone(), Manifest { seeded: false, ..first.next() }, next.next().next()] {
        let (wanted, found) = (stale.revision.saturating_sub(1), next.revision);
        let error = log.store.replace_manifest(stale).expect_err("stale");
        assert!(error.is_determinate());
        match error {
            ManifestError::Conflict { expected, found: told } => assert_eq!((expected, told), (wanted, found)),
            other => panic!("{other}"),
        }
        assert_eq!(log.store.manifest(), next);
    }
    log.store.replace_manifest(next.next()).expect("replaced");
    assert_eq!(log.store.manifest(), next.next());
}

/// Every field of it.
pub fn the_manifest_survives_as_it_was_replaced(make: Make) {
    let mut subject = make(None);
    let mut log = Log::open(&*subject);
    log.append(&*subject, 1000);
    let next = full(log.store.manifest().next());
    log.store.replace_manifest(next.clone()).expect("replaced");
    assert_eq!(log.store.manifest(), next);
    log.store.close();
    assert_eq!(Log::open(&*subject).store.manifest(), next);
    subject.crash();
    let log = Log::open(&*subject);
    assert_eq!((log.store.manifest(), log.end), (next.clone(), 1000));
    let last = Manifest { leader: None, ..next.next() };
    log.store.replace_manifest(last.clone()).expect("replaced");
    subject.crash();
    assert_eq!(Log::open(&*subject).store.manifest(), last);
}

/// A manifest with something in every field.
fn full(manifest: Manifest) -> Manifest {
    let entry = Epoch {
        epoch: 3,
        node_id: "n1".to_owned(),
        address: "host:1".to_owned(),
        replid: Some("b".repeat(40)),
        first_offset: Some(700),
        engine: "9.1.2".parse().ok(),
        databases: Some(16),
    };
    let leader = Leader { node_id: "n1".into(), address: "host:1".into(), lease_ms: 5000, process: Some("p/1".into()) };
    let contents = Contents { keys: vec![(0, 5), (3, 1)], digest: "c".repeat(40), module_types: vec!["d".repeat(9)] };
    let snapshot = SnapshotRecord {
        offset: 600,
        file: "600.rdb".to_owned(),
        bytes: 12,
        crc32c: 34,
        blocks: None,
        replid: "b".repeat(40),
        engine: "9.1.2".parse().ok(),
        time_ms: 56,
        contents: Some(contents),
        encrypt_key: None,
    };
    let mut epochs = manifest.epochs.clone();
    epochs.push(entry);
    let slots: SlotRanges = "0-5460,7000".parse().expect("slots");
    let given: SlotRanges = "8000".parse().expect("slots");
    let moved = SlotMove { job: "1".repeat(40), slots: given.clone(), shard: "s2".to_owned() };
    let migrations = Migrations { given, moved: vec![moved], ..Migrations::default() };
    let cluster =
        ClusterSlots { config_epoch: 9, slots, cluster_node_id: "e".repeat(40), epoch: 3, sent: Some(4), migrations };
    let (leader, cluster) = (Some(leader), Some(cluster));
    let full = Manifest { epochs, leader, base: 600, snapshots: vec![snapshot], seeded: true, cluster, ..manifest };
    Manifest { format: full.format_to_write(), ..full }
}

/// It succeeds once the medium takes it.
pub fn a_refused_replacement_changes_nothing(make: Make) {
    let mut subject = make(None);
    let mut log = Log::open(&*subject);
    log.append(&*subject, 100);
    let (before, next) = (log.store.manifest(), Manifest { seeded: true, ..log.store.manifest().next() });
    subject.refuse_manifests(SHARD, true);
    for restarts in [false, true] {
        let replaced =
            if restarts { log.store.restart(next.clone()) } else { log.store.replace_manifest(next.clone()) };
        assert!(replaced.expect_err("refused").is_determinate());
        assert_eq!(log.store.manifest(), before);
        log.append(&*subject, 100);
    }
    log.assert_holds_pattern(0);
    subject.refuse_manifests(SHARD, false);
    log.store.replace_manifest(next.clone()).expect("replaced");
    log.append(&*subject, 100);
    subject.crash();
    let log = Log::open(&*subject);
    assert_eq!((log.store.manifest(), log.end), (next, 400));
    log.assert_holds_pattern(0);
}

/// As a seed does.
pub fn starting_anew_empties_the_log_and_moves_it(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    for base in [5 * MIB as u64, 9 * MIB as u64 + 3] {
        for _ in 0..3 {
            log.append(&*subject, MIB);
        }
        let before = log.store.manifest();
        let after = log.restart(base);
        assert_eq!((after.base, after.revision), (base, before.revision + 1));
        assert!(after.generation > before.generation);
        assert!(log.read(before.base + 10, before.base + 20, 10).is_err(), "the log before is still read");
        log.append(&*subject, 1000);
        log.append(&*subject, 10);
        log.assert_holds_pattern(base);
    }
    let (end, manifest) = (log.end, log.store.manifest());
    log.store.close();
    let mut log = Log::open(&*subject);
    assert_eq!((log.end, log.store.manifest()), (end, manifest));
    log.append(&*subject, 10);
    log.assert_holds_pattern(9 * MIB as u64 + 3);
}

/// The log before goes on.
pub fn starting_anew_with_a_stale_revision_changes_nothing(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    log.append(&*subject, 1000);
    let manifest = log.store.manifest();
    for stale in [manifest.clone(), manifest.next().next()] {
        let error = log.store.restart(Manifest { base: 5000, ..stale }).expect_err("stale");
        assert!(matches!(error, ManifestError::Conflict { .. }), "{error}");
    }
    assert_eq!(log.store.manifest(), manifest);
    log.append(&*subject, 10);
    log.assert_holds_pattern(0);
}

/// Also without a single append.
pub fn a_log_that_was_started_anew_stays_so_after_a_crash(make: Make) {
    let mut subject = make(None);
    let mut log = Log::open(&*subject);
    log.append(&*subject, 1000);
    let manifest = log.restart(5000);
    subject.crash();
    let mut log = Log::open(&*subject);
    assert_eq!((log.end, log.store.manifest()), (5000, manifest));
    log.append(&*subject, 10);
    subject.crash();
    let log = Log::open(&*subject);
    assert_eq!(log.end, 5010);
    log.assert_holds_pattern(5000);
}

/// Not even if the next one begins where the reader stands.
pub fn a_reader_of_the_log_before_never_returns_bytes_of_the_next(make: Make) {
    let subject = make(None);
    let mut log = Log::open(&*subject);
    log.append(&*subject, 1000);
    let mut begun = log.store.reader(0).expect("opened");
    let mut whole = log.store.reader(0).expect("opened");
    assert_eq!(begun.read(1000, 900).expect("read").len(), 900);
    while whole.offset() < 1000 {
        whole.read(1000, 1000).expect("read");
    }
    log.restart(1000);
    log.append(&*subject, 1000);
    for mut reader in [begun, whole] {
        while reader.offset() < 2000 {
            let from = reader.offset();
            let Ok(bytes) = reader.read(2000, 1000) else { break };
            let end = from + bytes.len() as u64;
            assert!(end <= 1000 && bytes == pattern(from, bytes.len()), "from {from} to {end}");
        }
    }
}

/// The store goes on with the one before, and the same revision may be replaced again.
pub fn a_replacement_of_unknown_outcome_is_settled_by_another(make: MakeInDoubt) {
    let mut subject = make();
    let mut log = Log::open(&*subject);
    log.append(&*subject, 100);
    let before = log.store.manifest();
    subject.doubt_manifests(SHARD, true);
    let error = log.store.replace_manifest(Manifest { seeded: true, ..before.next() }).expect_err("in doubt");
    assert!(!error.is_determinate(), "{error}");
    assert_eq!(log.store.manifest(), before);
    subject.doubt_manifests(SHARD, false);
    let again = Manifest { base: 50, ..before.next() };
    log.store.replace_manifest(again.clone()).expect("replaced");
    log.append(&*subject, 100);
    subject.crash();
    let log = Log::open(&*subject);
    assert_eq!((log.store.manifest(), log.end), (again, 200));
}

/// Never something else, and the log is whole.
pub fn a_replacement_of_unknown_outcome_leaves_one_manifest_or_the_other(make: MakeInDoubt) {
    let mut subject = make();
    let mut log = Log::open(&*subject);
    log.append(&*subject, 100);
    let before = log.store.manifest();
    let next = Manifest { seeded: true, ..before.next() };
    subject.doubt_manifests(SHARD, true);
    assert!(!log.store.replace_manifest(next.clone()).expect_err("in doubt").is_determinate());
    subject.doubt_manifests(SHARD, false);
    subject.crash();
    let log = Log::open(&*subject);
    let found = log.store.manifest();
    assert!(found == before || found == next, "{found:?}");
    assert_eq!(log.end, 100);
    log.assert_holds_pattern(0);
}

/// Nothing that is appended in between may count.
pub fn a_restart_of_unknown_outcome_fails_the_store_and_leaves_one_log_or_the_other(make: MakeInDoubt) {
    let mut subject = make();
    let mut log = Log::open(&*subject);
    log.append(&*subject, 100);
    let before = log.store.manifest();
    subject.doubt_manifests(SHARD, true);
    let error = log.store.restart(Manifest { base: 500, ..before.next() }).expect_err("in doubt");
    assert!(!error.is_determinate());
    log.wait(&*subject, |seen| seen.failed.is_some());
    assert!(log.try_submit(1, 100, 10).is_err());
    subject.doubt_manifests(SHARD, false);
    subject.crash();
    let log = Log::open(&*subject);
    match log.store.manifest() {
        found if found == before => {
            assert_eq!(log.end, 100);
            log.assert_holds_pattern(0);
        }
        found => assert_eq!((found.base, found.revision, log.end), (500, before.revision + 1, 500)),
    }
}
