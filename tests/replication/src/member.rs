//! A service with a copy: its disk, which crashes leave, and its life, which they do not.

use std::collections::VecDeque;

use bytes::Bytes;
use logservice::replica::copy::{Base, CopyDisk, Vote};
use logservice::replica::group::{Fetch, Group, GroupStatus};
use logservice::store::ReadError;
use raft::eraftpb::Entry;

use crate::client::Client;
use crate::disk::Disk;

/// A service.
pub struct Member {
    /// The id of the member.
    pub id: u64,
    /// Its disk.
    pub disk: Disk,
    /// Its life; none if it is down.
    pub life: Option<Life>,
    /// The last entry that it has applied, ever.
    pub applied: u64,
    /// The vote and the newest term that it has told anybody, ever.
    pub told: Vote,
    /// It hears nothing, and its time does not pass, until this step.
    pub pauses_until: u64,
    /// Whether its disk takes its time.
    pub has_slow_disk: bool,
    /// Its disk is lost, or it is no member any more. It never starts again.
    pub is_gone: bool,
}

/// What its disk tells a copy, some time later.
#[derive(Debug)]
pub enum Report {
    /// What has that number is persisted.
    Persisted(u64),
    /// The entries begin later.
    Trimmed(Base),
    /// Entries were read that another member lacks. Others may be in their place by the time that this is told.
    Fetched(Fetch, Result<Vec<Entry>, ReadError>),
}

/// What was said of the log, as the rest of the service sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its committed end.
    pub end: u64,
    /// Revision of the state.
    pub revision: u64,
    /// The state.
    pub state: Bytes,
}

/// A service that is up.
pub struct Life {
    /// Its copy.
    pub group: Group,
    /// What was said of it.
    pub view: View,
    /// What the disk has to tell.
    pub reports: VecDeque<Report>,
    /// The store on top, if the copy leads.
    pub client: Option<Client>,
    /// The highest index that it knew to be committed.
    pub committed: u64,
    /// How many times the timeout of an election was drawn.
    pub timeouts: u64,
}

impl Member {
    /// Starts the service with what its disk has. It stays down if that ends it.
    pub fn start(&mut self, cached_bytes: usize) -> Result<(), String> {
        let Some(found) = self.disk.lock().open()? else { return Ok(()) };
        let (first, checkpoint, last) = (found.base.position.index, found.checkpoint.position.index, found.last_index);
        if !(first..=last).contains(&checkpoint) {
            return Err(format!("a checkpoint at {checkpoint} is found, and entries from {first} to {last}"));
        }
        let (vote, told) = (found.vote, self.told);
        let is_kept = vote.term > told.term || (vote.term == told.term && [0, vote.member].contains(&told.member));
        // A copy that was just made knows the term of its base, in which it has not voted.
        let is_of_base = told.term <= found.base.position.term && told.member == 0;
        if !is_kept && !is_of_base {
            return Err(format!("{vote:?} is found, and {told:?} was told"));
        }
        let mut group = Group::open(self.id, found).map_err(|error| error.to_string())?;
        group.set_cached_bytes(cached_bytes);
        let mut life = Life {
            view: View { end: 0, revision: 0, state: Bytes::new() },
            reports: VecDeque::new(),
            client: None,
            committed: 0,
            timeouts: 0,
            group,
        };
        life.look();
        self.life = Some(life);
        Ok(())
    }

    /// Whether the copy has lost what it may have acknowledged, and has not all of it again. In that case the term up to which it may have.
    pub fn lost_in(&self) -> Option<u64> {
        match &self.life {
            Some(life) => life.group.lost_in(),
            None => {
                let medium = &self.disk.lock().medium;
                medium.lost_in.filter(|lost_in| *lost_in >= medium.checkpoint.position.term)
            }
        }
    }

    /// As [`Member::lost_in`], or if it would be so after a crash.
    pub fn may_lose(&self) -> Option<u64> {
        self.lost_in().or(self.disk.lost_in())
    }

    /// Its life, unless it is down or pauses at that step.
    pub fn awake(&mut self, step: u64) -> Option<&mut Life> {
        let is_awake = self.pauses_until <= step;
        self.life.as_mut().filter(|_| is_awake)
    }
}

impl Life {
    /// Takes over what the copy says of itself.
    pub fn look(&mut self) {
        let checkpoint = self.group.checkpoint();
        let (end, revision, state) = (checkpoint.position.end, checkpoint.revision, checkpoint.state.clone());
        self.view = View { end, revision, state };
    }

    /// Whether the copy leads, and its store is open.
    pub fn leads(&self) -> bool {
        self.client.is_some()
    }

    /// What the copy says of itself.
    pub fn status(&self) -> GroupStatus {
        self.group.status()
    }
}
