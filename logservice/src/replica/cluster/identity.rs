//! Who a service is: the file `SERVICE` in its directory.
//!
//! A directory has one id for ever, and an id one directory: what a member has voted and stored is there. So the id is drawn when the
//! directory is made, and is lost with it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::base::file_error::{sync_directory, FileError, InFile};

const FILE: &str = "SERVICE";
const FORMAT: u32 = 1;

/// A service of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its id, never 0.
    pub member: u64,
    /// Its name.
    pub name: String,
    /// Its zone; empty if it has none.
    pub zone: String,
    /// Where its peers reach it.
    pub address: String,
}

/// The cluster that a service is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Its id, never 0.
    pub id: u64,
    /// The member at which it was made.
    pub initiator: u64,
    /// Its services when it was made.
    pub members: Vec<MemberRecord>,
    /// Whether this service's copy of the cluster's own log was made. From then on it is never made again: without it, nobody knows what
    /// this service has voted.
    pub is_formed: bool,
    /// Whether it was there before this service came, so that this one's copies begin with nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_older: bool,
    /// Whether the one at which it was made brings shards that it has kept alone.
    #[serde(default, skip_serializing_if = "is_false")]
    pub has_shards: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Who a service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its id, never 0.
    pub member: u64,
    /// Its name.
    pub name: String,
    /// Its cluster; none before there is one.
    pub cluster: Option<ClusterRecord>,
    /// The shards of which it has made its copy. From then on that is never made again, for the same reason.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub copies_made: BTreeSet<String>,
    /// How many shards the cluster had dropped when a dropped one left that list last.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drops: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    service: Identity,
    crc32c: u32,
}

/// Why a directory is not that of a service of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Its file cannot be used.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is another service's.
    #[error("{} belongs to the service named '{found}', not '{name}': give --name {found}, or another --dir", directory.display())]
    OtherName {
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wants it.
        name: String,
    },
    /// It has the shards of a service that is alone, and is to get what others have.
    #[error("{} has shards of a service without peers, and a service that takes the place of another brings none: give --join an empty --dir", .0.display())]
    HasShards(PathBuf),
    /// It is of a service with peers.
    #[error("{} belongs to a service of a cluster: give its --name and --peers, or another --dir", .0.display())]
    NeedsPeers(PathBuf),
    /// Another process has it.
    #[error("{} is in use by another logservice: stop that one or choose another --dir", .0.display())]
    InUse(PathBuf),
    /// Something cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no random number.
    #[error("cannot draw a random number: {0}")]
    Random(std::io::Error),
}

/// A random number that is not 0.
pub fn random_id() -> Result<u64, IdentityError> {
    Ok(getrandom::u64().map_err(|error| IdentityError::Random(error.into()))?.max(1))
}

/// Checks that a service without peers may use `directory`.
///
/// # Errors
/// It is of a service with peers.
pub fn check_alone(directory: &Path) -> Result<(), IdentityError> {
    match Identity::read(directory)? {
        // It has promised nothing to anybody.
        Some(Identity { cluster: None, .. }) | None => Ok(()),
        Some(_) => Err(IdentityError::NeedsPeers(directory.to_owned())),
    }
}

/// Takes a directory for this process, for as long as the file is open.
pub(super) fn take_directory(directory: &Path) -> Result<File, IdentityError> {
    fs::create_dir_all(directory).in_file("cannot create", directory)?;
    let file = File::open(directory).in_file("cannot open", directory)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(IdentityError::InUse(directory.to_owned())),
        Err(error) => Err(Err::<(), _>(error).in_file("cannot lock", directory).unwrap_err().into()),
    }
}

impl Identity {
    /// That of the service in `directory`, made if the directory is new. Blocks on I/O.
    ///
    /// # Errors
    /// The directory is of somebody else, or cannot be used.
    pub fn open(directory: &Path, name: &str) -> Result<Self, IdentityError> {
        match Self::read(directory)? {
            Some(found) if found.name == name => Ok(found),
            Some(Identity { name: found, .. }) => {
                Err(IdentityError::OtherName { directory: directory.to_owned(), found, name: name.to_owned() })
            }
            None => Self::make(directory, name),
        }
    }

    /// That of the service in `directory`; none if none was made. Blocks on I/O.
    ///
    /// # Errors
    /// It cannot be used.
    fn read(directory: &Path) -> Result<Option<Self>, IdentityError> {
        let path = directory.join(FILE);
        let damaged = |reason: String| IdentityError::Damaged { path: path.clone(), reason };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Err::<(), _>(error).in_file("cannot read", &path).unwrap_err().into()),
        };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if stored.format > FORMAT {
            return Err(damaged(format!("written by a newer version (format {}): upgrade logservice", stored.format)));
        }
        if checksum(&stored.service).is_none_or(|sum| sum != stored.crc32c) {
            return Err(damaged("it does not match its checksum".to_owned()));
        }
        Ok(Some(stored.service))
    }

    fn make(directory: &Path, name: &str) -> Result<Self, IdentityError> {
        let (member, name) = (random_id()?, name.to_owned());
        let identity = Identity { member, name, cluster: None, copies_made: BTreeSet::new(), drops: 0 };
        identity.store(directory)?;
        Ok(identity)
    }

    /// Writes it: a crash leaves what was there before, or this. Blocks on I/O.
    ///
    /// # Errors
    /// It may be there or not.
    pub(super) fn store(&self, directory: &Path) -> Result<(), IdentityError> {
        let (path, partial) = (directory.join(FILE), directory.join(format!("{FILE}.partial")));
        let crc32c = checksum(self).unwrap_or_default();
        let stored = Stored { format: FORMAT, service: self.clone(), crc32c };
        let written = serde_json::to_vec_pretty(&stored).map_err(std::io::Error::other).and_then(|text| {
            let mut file = File::create(&partial)?;
            file.write_all(&text)?;
            file.sync_all()
        });
        written.in_file("cannot write", &partial)?;
        fs::rename(&partial, &path).in_file("cannot replace", &path)?;
        Ok(sync_directory(directory)?)
    }

    /// The ids and names of a cluster's members have to be different, and this service one of them.
    pub(super) fn is_in(&self, members: &[MemberRecord]) -> bool {
        let ids: BTreeSet<u64> = members.iter().map(|record| record.member).collect();
        let names: BTreeSet<&str> = members.iter().map(|record| &*record.name).collect();
        let is_self = |record: &MemberRecord| record.member == self.member && record.name == self.name;
        ids.len() == members.len() && names.len() == members.len() && !ids.contains(&0) && members.iter().any(is_self)
    }
}

/// The checksum of what is stored; none if it cannot be stored.
fn checksum(identity: &Identity) -> Option<u32> {
    serde_json::to_vec(identity).ok().map(|text| crc32c::crc32c(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_id_and_one_name() {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut first = Identity::open(directory.path(), "a").expect("made");
        assert_ne!(first.member, 0);
        assert_eq!(Identity::open(directory.path(), "a").expect("found"), first);
        let error = Identity::open(directory.path(), "b").expect_err("another name").to_string();
        assert!(error.contains("belongs to the service named 'a'"), "{error}");
        let record = MemberRecord { member: 1, name: "a".into(), zone: "z".into(), address: "h:1".into() };
        first.cluster = Some(ClusterRecord {
            id: 5,
            initiator: 1,
            members: vec![record],
            is_formed: true,
            is_older: false,
            has_shards: false,
        });
        first.store(directory.path()).expect("stored");
        assert_eq!(Identity::open(directory.path(), "a").expect("found"), first);
        assert!(matches!(check_alone(directory.path()), Err(IdentityError::NeedsPeers(_))));
    }

    #[test]
    fn a_digit_that_has_changed_is_not_believed() {
        let directory = tempfile::tempdir().expect("tempdir");
        let (member, name) = (123_456, "a".to_owned());
        let identity = Identity { member, name, cluster: None, copies_made: BTreeSet::new(), drops: 0 };
        identity.store(directory.path()).expect("stored");
        let path = directory.path().join(FILE);
        let text = std::fs::read_to_string(&path).expect("text");
        for (from, to) in [("123456", "123457"), ("\"a\"", "\"b\""), ("}", "")] {
            std::fs::write(&path, text.replace(from, to)).expect("written");
            let error = Identity::open(directory.path(), "a").expect_err("damaged");
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
        }
    }

    #[test]
    fn a_service_that_has_joined_nobody_may_go_back_to_be_alone() {
        let directory = tempfile::tempdir().expect("tempdir");
        check_alone(directory.path()).expect("nobody's");
        Identity::open(directory.path(), "a").expect("made");
        check_alone(directory.path()).expect("of no cluster");
        std::fs::write(directory.path().join(FILE), "{}").expect("written");
        assert!(matches!(check_alone(directory.path()), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn a_directory_is_of_one_process() {
        let directory = tempfile::tempdir().expect("tempdir");
        let first = take_directory(directory.path()).expect("taken");
        assert!(matches!(take_directory(directory.path()), Err(IdentityError::InUse(_))));
        drop(first);
        take_directory(directory.path()).expect("free again");
    }
}
