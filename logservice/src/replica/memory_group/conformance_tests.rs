//! The conformance suite of stores, for the replicated one over groups in memory.

use std::sync::Arc;

use super::{MemoryGroup, MemoryGroups};
use crate::replica::groups::Groups;
use crate::replica::store_factory::ReplicatedStores;
use crate::store::conformance::{Faulty, Make, Subject, CASES};
use crate::store::{
    Listed, Manifest, MediumError, OpenError, Opened, RemoveError, RemovedStore, StoreEvents, StoreFactory,
};

/// Cases about what a replicated store, or a group in memory, does not do. All but the first are asked of stores over three copies in files
/// (`cluster/conformance_tests/`).
const NOT_PROMISED: [(&str, &str); 9] = [
    ("a_refused_replacement_changes_nothing", "after a refusal the shard is opened anew"),
    ("a_full_log_refuses_and_drops_what_was_submitted_behind", FULL),
    ("a_refused_append_is_accepted_again_once_there_is_space", FULL),
    ("a_full_log_is_read_and_its_manifest_is_replaced", FULL),
    ("damage_is_reported_when_the_store_is_opened_or_soon_after", "the copy's disk finds damage, and these have none"),
    ("a_removed_store_is_gone_and_its_name_free", REMOVED),
    ("what_was_removed_is_listed_until_its_end", REMOVED),
    ("removing_survives_a_crash", REMOVED),
    ("removing_what_is_not_there_does_no_harm", REMOVED),
];
const FULL: &str = "the copy's disk keeps to the bound, and these only show it";
const REMOVED: &str = "the cluster drops shards, and of these nothing is left";

/// Makes the shards that are opened, and decides over each.
struct Made {
    groups: Arc<MemoryGroups>,
    stores: ReplicatedStores,
}

impl StoreFactory for Made {
    fn list(&self) -> Result<Listed, MediumError> {
        self.stores.list()
    }

    fn open(&self, shard: &str, events: Arc<dyn StoreEvents>) -> Result<Opened, OpenError> {
        let group = self.groups.get_or_make(shard);
        if crate::replica::handle::GroupHandle::view(&*group).leads_in.is_none() {
            group.lead(1);
        }
        self.stores.open(shard, events)
    }

    fn exists(&self, shard: &str) -> bool {
        self.stores.exists(shard)
    }

    fn manifest(&self, shard: &str) -> Option<Manifest> {
        self.stores.manifest(shard)
    }

    fn remove(&self, shard: &str) -> Result<Arc<dyn RemovedStore>, RemoveError> {
        self.stores.remove(shard)
    }
}

struct ReplicatedSubject {
    groups: Arc<MemoryGroups>,
}

impl ReplicatedSubject {
    fn group(&self, shard: &str) -> Arc<MemoryGroup> {
        self.groups.get_or_make(shard)
    }
}

impl Subject for ReplicatedSubject {
    fn stores(&self) -> Arc<dyn StoreFactory> {
        let groups = self.groups.clone();
        Arc::new(Made { stores: ReplicatedStores::new(groups.clone() as Arc<dyn Groups>), groups })
    }

    fn crash(&mut self) {
        self.groups = Arc::new(self.groups.reopened());
    }
}

impl Faulty for ReplicatedSubject {
    fn damage(&self, shard: &str, offset: u64) {
        self.group(shard).damage(offset);
    }

    fn fail_writes(&self, shard: &str, do_fail: bool) {
        self.group(shard).fail_writes(do_fail);
    }

    fn refuse_manifests(&self, _shard: &str, _are_refused: bool) {
        panic!("no case that is promised asks for this");
    }
}

#[test]
fn a_replicated_store_does_what_every_store_does() {
    let is_promised = |name: &str| NOT_PROMISED.iter().all(|(case, _)| *case != name);
    assert_eq!(CASES.iter().filter(|(name, _)| !is_promised(name)).count(), NOT_PROMISED.len());
    let make: Make =
        |max_log_bytes| Box::new(ReplicatedSubject { groups: Arc::new(MemoryGroups::bounded(max_log_bytes)) });
    let fails = |case: &fn(Make)| std::panic::catch_unwind(|| case(make)).is_err();
    let promised = CASES.iter().filter(|(name, _)| is_promised(name));
    let failed: Vec<_> = promised.filter(|(_, case)| fails(case)).map(|(name, _)| name).collect();
    assert!(failed.is_empty(), "{failed:?}");
}
