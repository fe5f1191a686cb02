//! The end of a copy's directory: set aside by one rename, then removed piece by piece. `COPY` goes last, as the shard's state in it names
//! the shard's snapshots.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::PathBuf;

use super::head::{self, COPY};
use crate::base::file_error::InFile;
use crate::store::file_store::remove;
use crate::store::{Manifest, MediumError, RemovedStore};

/// A copy's directory that was set aside.
pub struct RemovedCopy(pub PathBuf);

impl Display for RemovedCopy {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(formatter)
    }
}

impl RemovedStore for RemovedCopy {
    fn remove_log(&self) -> Result<(), MediumError> {
        Ok(remove::remove_some(&self.0, |name| name != COPY)?)
    }

    fn manifest(&self) -> Result<Option<Result<Manifest, String>>, MediumError> {
        let path = self.0.join(COPY);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(head::state_in(&bytes).and_then(|state| Manifest::parse(&state)))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Ok(Err(error).in_file("cannot read", &path)?),
        }
    }

    fn finish(&self) -> Result<(), MediumError> {
        Ok(remove::remove_rest(&self.0)?)
    }
}
