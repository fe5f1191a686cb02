//! Cases of the conformance suite that need a manifest of unknown outcome.

use std::sync::Arc;

use fail::FailScenario;
use logservice::store::conformance::{self, InDoubt, MakeInDoubt, Subject};
use logservice::store::file_store::files::Step;
use logservice::store::file_store::{FileStoreOptions, FileStores, Threads, MIN_SEGMENT_BYTES};
use logservice::store::StoreFactory;
use tempfile::TempDir;

use crate::image::Image;

struct FileSubject {
    directory: TempDir,
    /// Which step makes a manifest one in doubt.
    failing: Step,
}

impl FileSubject {
    fn new(failing: Step) -> Self {
        let subject = FileSubject { directory: tempfile::tempdir().expect("tempdir"), failing };
        subject.stores().list().expect("listed");
        subject
    }
}

impl Subject for FileSubject {
    fn stores(&self) -> Arc<dyn StoreFactory> {
        let threads = Threads::start().expect("threads");
        let keys = crate::keys();
        let options = FileStoreOptions { segment_bytes: MIN_SEGMENT_BYTES, max_log_bytes: None, threads, keys };
        Arc::new(FileStores::new(&self.directory.path().join("shards"), options))
    }

    fn crash(&mut self) {
        let next = tempfile::tempdir().expect("tempdir");
        Image::take(self.directory.path()).write(next.path());
        self.directory = next;
    }
}

impl InDoubt for FileSubject {
    fn doubt_manifests(&self, _shard: &str, are_in_doubt: bool) {
        match are_in_doubt {
            true => fail::cfg(self.failing.name(), "return(eio)").expect("configured"),
            false => fail::remove(self.failing.name()),
        }
    }
}

#[test]
fn manifests_in_doubt_are_as_the_contract_says() {
    let _scenario = FailScenario::setup();
    let makes: [MakeInDoubt; 2] = [
        || Box::new(FileSubject::new(Step::ManifestRename)),
        || Box::new(FileSubject::new(Step::ManifestDirectorySync)),
    ];
    for make in makes {
        conformance::a_replacement_of_unknown_outcome_is_settled_by_another(make);
        conformance::a_replacement_of_unknown_outcome_leaves_one_manifest_or_the_other(make);
        conformance::a_restart_of_unknown_outcome_fails_the_store_and_leaves_one_log_or_the_other(make);
    }
}
