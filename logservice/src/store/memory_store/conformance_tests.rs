//! The memory store passes the conformance suite, driven by hand and by a thread.

use std::sync::Arc;
use std::time::Duration;

use super::{Faults, ManifestFault, MemoryOptions, MemoryStores, WriteFault, Writes};
use crate::store::conformance::{self, conformance_tests, Faulty, InDoubt, Subject};
use crate::store::StoreFactory;

const KEY: &str = "k1";

/// Memory stores of a process.
pub struct MemorySubject {
    pub stores: MemoryStores,
    writes: Writes,
    /// What becomes of a manifest in doubt.
    is_stored: bool,
}

impl MemorySubject {
    /// Stores that write as `writes` says. A manifest in doubt turns out to be stored if `is_stored`.
    pub fn new(writes: Writes, max_log_bytes: Option<u64>, is_stored: bool) -> Self {
        let key_id = Some(KEY.to_owned());
        let stores = MemoryStores::new(MemoryOptions { writes, max_log_bytes, key_id, ..MemoryOptions::default() });
        MemorySubject { stores, writes, is_stored }
    }
}

impl Subject for MemorySubject {
    fn stores(&self) -> Arc<dyn StoreFactory> {
        Arc::new(self.stores.clone())
    }

    fn run(&self, shard: &str) {
        if self.writes == Writes::ByHand {
            let store = self.stores.store(shard);
            while store.as_ref().is_some_and(|store| store.step().is_some()) {}
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(if self.writes == Writes::ByHand { 0 } else { 20 })
    }

    fn crash(&mut self) {
        self.stores.crash(|_, unsynced| unsynced / 2);
    }
}

impl Faulty for MemorySubject {
    fn damage(&self, shard: &str, offset: u64) {
        self.stores.damage(shard, offset);
    }

    fn fail_writes(&self, shard: &str, do_fail: bool) {
        let write = do_fail.then_some(WriteFault::Write { written_bytes: 7 });
        self.stores.set_faults(shard, Faults { write, ..Faults::default() });
    }

    fn refuse_manifests(&self, shard: &str, are_refused: bool) {
        let manifest = are_refused.then_some(ManifestFault::Refused);
        self.stores.set_faults(shard, Faults { manifest, ..Faults::default() });
    }

    fn key_id(&self) -> Option<&str> {
        Some(KEY)
    }
}

impl InDoubt for MemorySubject {
    fn doubt_manifests(&self, shard: &str, are_in_doubt: bool) {
        let manifest = are_in_doubt.then_some(ManifestFault::Unknown { is_stored: self.is_stored });
        self.stores.set_faults(shard, Faults { manifest, ..Faults::default() });
    }
}

mod by_hand {
    use super::*;

    conformance_tests!(|bound| Box::new(MemorySubject::new(Writes::ByHand, bound, false)));
}

mod by_thread {
    use super::*;

    conformance_tests!(|bound| Box::new(MemorySubject::new(Writes::ByThread, bound, false)));
}

#[test]
fn manifests_in_doubt_are_as_the_contract_says() {
    for make in [
        || Box::new(MemorySubject::new(Writes::ByHand, None, false)) as Box<dyn InDoubt>,
        || Box::new(MemorySubject::new(Writes::ByHand, None, true)) as Box<dyn InDoubt>,
    ] {
        conformance::a_replacement_of_unknown_outcome_is_settled_by_another(make);
        conformance::a_replacement_of_unknown_outcome_leaves_one_manifest_or_the_other(make);
        conformance::a_restart_of_unknown_outcome_fails_the_store_and_leaves_one_log_or_the_other(make);
    }
}
