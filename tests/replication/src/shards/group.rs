//! The group of a service as its shard has it: the real one, but for work that waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use durability_simulation::service::SHARD;
use logservice::replica::copy::{CopyDisks, CopyEvents, Install, OpenedCopy};
use logservice::replica::driver::{DrivenGroup, Network as Sends};
use logservice::replica::group::{GroupStatus, Outcome};
use logservice::replica::groups::{Answer, ClusterError, Groups, GroupsChanged, HearsReports, ServiceStatus};
use logservice::replica::handle::{GroupEvents, GroupHandle, OnConfirmed, OnOutcome, Replacement, View};
use logservice::store::{
    Append, LogReader, MediumError, OpenError, ReadError, RemovedStore, SubmitError, TrimError, Usage,
};
use raft::eraftpb::Message;

use super::blocking::wait_for;
use crate::disk::Disk;
use crate::network::MEMBERS;

/// The group of a service.
pub struct Group(pub Arc<DrivenGroup>);

impl GroupHandle for Group {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn listen(&self, events: Arc<dyn GroupEvents>) -> View {
        self.0.listen(events)
    }

    fn view(&self) -> View {
        self.0.view()
    }

    fn append(&self, term: u64, append: Append) -> Result<(), SubmitError> {
        self.0.append(term, append)
    }

    /// Whoever calls waits for the outcome next, so this waits.
    fn replace_state(&self, term: u64, replacement: Replacement, done: OnOutcome) {
        let (is_told, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let (tells, keeps) = (is_told.clone(), told.clone());
        let note = move |outcome: Outcome| {
            *keeps.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(outcome);
            tells.store(true, Ordering::Release);
        };
        self.0.replace_state(term, replacement, Box::new(note));
        wait_for(&is_told);
        let outcome = told.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        done(outcome.unwrap_or(Outcome::Unknown));
    }

    fn confirm(&self, term: u64, done: OnConfirmed) {
        self.0.confirm(term, done);
    }

    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        self.0.reader(offset)
    }

    fn trim(&self, _offset: u64) -> Result<(), TrimError> {
        Err(TrimError(MediumError::new("logs are not trimmed in this simulation")))
    }

    fn transfer_to(&self, member: u64) {
        self.0.transfer_to(member);
    }

    fn status(&self) -> Option<GroupStatus> {
        None
    }

    fn usage(&self) -> Usage {
        self.0.usage()
    }
}

/// The groups of a service: there is one.
pub struct OneGroup {
    /// The service.
    pub member: u64,
    /// Its group.
    pub group: Arc<Group>,
}

impl Groups for OneGroup {
    fn group(&self, shard: &str) -> Option<Arc<dyn GroupHandle>> {
        (shard == SHARD).then(|| self.group.clone() as Arc<dyn GroupHandle>)
    }

    fn names(&self) -> Vec<String> {
        vec![SHARD.to_owned()]
    }

    fn on_groups(&self, _events: Arc<dyn GroupsChanged>) {}

    fn create<'a>(&'a self, _shard: &'a str, _first_state: Bytes) -> Answer<'a, Result<(), ClusterError>> {
        Box::pin(async { Ok(()) })
    }

    fn drop_shard<'a>(&'a self, _shard: &'a str, _log_id: &'a str) -> Answer<'a, Result<(), ClusterError>> {
        Box::pin(async { Err(ClusterError::Refused("no shard is dropped in this simulation".to_owned())) })
    }

    fn init(&self) -> Answer<'_, Result<(), ClusterError>> {
        Box::pin(async { Ok(()) })
    }

    fn services(&self) -> Vec<ServiceStatus> {
        let service = |member| ServiceStatus { member, address: format!("s{member}:1"), ..ServiceStatus::default() };
        (1..=MEMBERS as u64).map(service).collect()
    }

    fn cluster(&self) -> Option<u64> {
        Some(1)
    }

    fn member(&self) -> u64 {
        self.member
    }

    fn hand_over_cluster(&self) -> Answer<'_, ()> {
        Box::pin(async {})
    }

    fn report<'a>(&'a self, _service: &'a str, _report: String) -> Answer<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn on_reports(&self, _hearer: Arc<dyn HearsReports>) {}
}

/// The copy of a service, as its driver opens it.
pub struct OneCopy {
    /// Where it is.
    pub disk: Disk,
    /// Whom it tells, once it is open.
    pub events: Mutex<Option<Arc<dyn CopyEvents>>>,
}

impl CopyDisks for OneCopy {
    fn list(&self) -> Result<Vec<String>, MediumError> {
        Ok(vec![SHARD.to_owned()])
    }

    fn create(&self, _group: &str, _install: &Install) -> Result<(), MediumError> {
        Ok(())
    }

    /// None if the process ends meanwhile, as was drawn.
    fn open(&self, _group: &str, events: Arc<dyn CopyEvents>) -> Result<Option<OpenedCopy>, OpenError> {
        let found = self.disk.lock().open().map_err(MediumError::new)?;
        *self.events.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(events);
        Ok(found.map(|found| OpenedCopy { disk: Arc::new(self.disk.clone()), found }))
    }

    fn begin_anew(&self, _group: &str, _install: &Install) -> Result<(), OpenError> {
        Err(MediumError::new("no copy is damaged in this simulation").into())
    }

    fn remove(&self, _group: &str) -> Result<(), MediumError> {
        Ok(())
    }

    fn set_aside(&self, _group: &str) -> Result<Arc<dyn RemovedStore>, MediumError> {
        Err(MediumError::new("no shard is dropped in this simulation"))
    }
}

/// What a driver has sent and the network has not taken yet.
#[derive(Default)]
pub struct Outbox(Mutex<Vec<Message>>);

impl Outbox {
    /// Takes all of it.
    pub fn take(&self) -> Vec<Message> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

impl Sends for Outbox {
    fn send(&self, _group: &str, message: Message) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(message);
    }
}
