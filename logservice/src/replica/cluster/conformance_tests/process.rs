//! Three services with real copies in real files, over a network in memory, and how they are killed.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::super::tests::{Net, NetOf, NAMES};
use super::super::{lock, ClusterError, Replicas, ReplicasOptions};
use super::LONG_ENOUGH;
use crate::encryption::KeyRing;
use crate::replica::copy_files::tracked::TrackedCopies;
use crate::replica::driver::{DrivenGroup, TICK};
use crate::replica::groups::{Answer, Groups};
use crate::replica::handle::GroupHandle;
use crate::replica::store_factory::ReplicatedStores;
use crate::store::file_store::{FileStoreOptions, Threads, MIN_SEGMENT_BYTES};

/// A service and its disk.
pub struct Machine {
    directory: TempDir,
    pub disks: Arc<TrackedCopies>,
    service: Option<Arc<Replicas>>,
}

/// Three services, until they are killed together.
pub struct Process {
    runtime: Option<Runtime>,
    net: Arc<Net>,
    pub machines: Mutex<Vec<Machine>>,
    max_log_bytes: Option<u64>,
    /// The first service's disk has changed since its copies were opened.
    pub is_damaged: Mutex<bool>,
    /// Writes fail until the services are started again.
    pub is_failing: Arc<AtomicBool>,
    /// Another service has decided that nobody asked to.
    pub is_disturbed: Arc<AtomicBool>,
}

/// An empty disk.
pub fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("tempdir")
}

impl Process {
    /// Three services in these directories, which are a cluster.
    pub fn start(directories: Vec<TempDir>, max_log_bytes: Option<u64>, is_disturbed: Arc<AtomicBool>) -> Arc<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        let process = Process {
            runtime: Some(runtime),
            net: Arc::default(),
            machines: Mutex::default(),
            max_log_bytes,
            is_damaged: Mutex::default(),
            is_failing: Arc::default(),
            is_disturbed,
        };
        for (node, directory) in directories.into_iter().enumerate() {
            let machine = process.start_machine(node, directory);
            lock(&process.machines).push(machine);
        }
        let first = process.service(0);
        if first.cluster().is_none() {
            process.runtime().block_on(first.init()).expect("made");
        }
        Arc::new(process)
    }

    fn start_machine(&self, node: usize, directory: TempDir) -> Machine {
        let _runtime = self.runtime().enter();
        let name = NAMES[node];
        let options = FileStoreOptions {
            segment_bytes: MIN_SEGMENT_BYTES,
            max_log_bytes: self.max_log_bytes,
            threads: Threads::start().expect("threads"),
            keys: Arc::<KeyRing>::default(),
        };
        let disks = Arc::new(TrackedCopies::new(&directory.path().join("replicas"), options));
        let service = Replicas::start(ReplicasOptions {
            directory: directory.path().to_owned(),
            name: name.to_owned(),
            zone: format!("z{name}"),
            peers: NAMES.map(|name| (name.to_owned(), format!("{name}:7381"))).to_vec(),
            client_address: format!("{name}:7379"),
            http_address: format!("{name}:7380"),
            joins: false,
            disks: disks.clone(),
            alone: None,
            peering: Arc::new(NetOf { net: self.net.clone() }),
        });
        let service = service.expect("it starts");
        lock(&self.net.services).insert(name.to_owned(), Arc::downgrade(&service));
        Machine { directory, disks, service: Some(service) }
    }

    /// Where its tasks run.
    pub fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it runs")
    }

    /// A service of it.
    pub fn service(&self, node: usize) -> Arc<Replicas> {
        lock(&self.machines)[node].service.clone().expect("it runs")
    }

    /// The stores of the first one.
    pub fn stores(&self) -> ReplicatedStores {
        ReplicatedStores::new(self.service(0))
    }

    /// The copy of a shard at a service.
    pub fn group(&self, node: usize, shard: &str) -> Option<Arc<DrivenGroup>> {
        let service = self.service(node);
        let group = lock(&service.shards).get(shard).cloned();
        group
    }

    /// Waits until all services have on their disks what was acknowledged of a shard: two of them do before.
    pub fn wait_for_disks(&self, shard: &str) {
        let acknowledged = self.group(0, shard).expect("a copy").view().acknowledged;
        let has_it = |node| self.group(node, shard).is_some_and(|group| group.view().end >= acknowledged);
        until("all have what was acknowledged", || (0..3).all(has_it));
    }

    /// Waits until the first service has a whole copy of what `of` says, and decides over it.
    pub fn lead(&self, of: impl Fn(&Replicas) -> Option<Arc<DrivenGroup>>) {
        let first = self.service(0);
        let mut looks = 0_u32;
        until("the first service decides", || {
            let Some(group) = of(&first).filter(|group| is_used(group)) else { return false };
            if group.view().leads_in.is_some() {
                return true;
            }
            let others = [1, 2].map(|node| of(&self.service(node)));
            let leader = others.into_iter().flatten().find(|group| group.view().leads_in.is_some());
            match leader {
                Some(leader) => leader.transfer_to(first.member),
                // Each attempt begins anew, so votes must have the time to come.
                None if looks.is_multiple_of(50) => group.campaign(),
                None => {}
            }
            looks += 1;
            false
        });
    }

    /// Has the first service asked for a change of the cluster. If another one decides by then, it is asked again.
    pub fn change<'a>(&self, what: &str, ask: impl Fn() -> Answer<'a, Result<(), ClusterError>>) {
        until(what, || {
            self.lead(|service| lock(&service.cluster_group).clone());
            match self.runtime().block_on(ask()) {
                Err(ClusterError::NotLeader { .. }) => false,
                answer => {
                    answer.expect(what);
                    true
                }
            }
        });
    }

    /// The first service is started again, on a disk that has changed meanwhile.
    pub fn restart_first(&self) {
        let next = directory();
        let old = lock(&self.machines)[0].service.take().expect("it runs");
        lock(&self.net.services).remove(NAMES[0]);
        old.stop();
        {
            let _unchanged = lock(&old.changing_copies);
            copy(lock(&self.machines)[0].directory.path(), next.path());
        }
        let machine = self.start_machine(0, next);
        lock(&self.machines)[0] = machine;
    }

    /// All services are killed. What they had on their disks at one moment is found by others.
    pub fn crash(&self) -> Arc<Self> {
        let names = self.names(0);
        until("all have made the same copies", || (1..3).all(|node| self.names(node) == names));
        let directories = self.copy_directories();
        (0..3).for_each(|node| self.service(node).stop());
        let next = Process::start(directories, self.max_log_bytes, self.is_disturbed.clone());
        // What it had written last of the cluster's own log, and of each shard's, is committed when somebody decides.
        next.lead(|service| lock(&service.cluster_group).clone());
        until("it knows all shards, and no other", || next.names(0) == names);
        names.iter().for_each(|name| next.lead(|service| lock(&service.shards).get(name).cloned()));
        next
    }

    fn names(&self, node: usize) -> Vec<String> {
        let mut names = self.service(node).names();
        names.sort();
        names
    }

    /// What is on all disks at one moment: if one went on while another is copied, it could promise what its copy does not know.
    fn copy_directories(&self) -> Vec<TempDir> {
        let services: Vec<_> = (0..3).map(|node| self.service(node)).collect();
        let _unchanged: Vec<_> = services.iter().map(|service| lock(&service.changing_copies)).collect();
        let machines = lock(&self.machines);
        let disks: Vec<_> = machines.iter().flat_map(|machine| machine.disks.opened()).collect();
        let _still: Vec<_> = disks.iter().map(|disk| disk.hold_still()).collect();
        let copied = |machine: &Machine| {
            let next = directory();
            copy(machine.directory.path(), next.path());
            next
        };
        machines.iter().map(copied).collect()
    }
}

/// Whether a copy is used: it is neither damaged nor being fetched anew.
fn is_used(group: &DrivenGroup) -> bool {
    let view = group.view();
    view.failed.is_none() && view.is_whole && group.failure().is_none()
}

impl Drop for Process {
    fn drop(&mut self) {
        let services: Vec<_> = lock(&self.machines).iter_mut().filter_map(|machine| machine.service.take()).collect();
        services.iter().for_each(|service| service.stop());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(LONG_ENOUGH);
        }
    }
}

/// Waits until it is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < LONG_ENOUGH, "{what}");
        std::thread::sleep(TICK / 10);
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("listed") {
        let (entry, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("entry");
        if entry.is_dir() {
            std::fs::create_dir(&to).expect("created");
            copy(&entry, &to);
        } else if let Err(error) = std::fs::copy(&entry, &to) {
            // A spare may be renamed meanwhile.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}
