//! Files and bytes as the store's errors tell them: in text.

use std::path::Path;

use super::files::ReplaceError;
use crate::base::file_error::FileError;
use crate::store::{Damage, ManifestError, MediumError, OpenError, ReadError, RemoveError, TrimError};

/// Damage at byte `position` of a segment file.
pub fn damage_at(path: &Path, position: u64, reason: impl Into<String>) -> Damage {
    Damage { place: format!("{} at byte {position}", path.display()), reason: reason.into() }
}

impl From<FileError> for MediumError {
    fn from(error: FileError) -> Self {
        MediumError::new(error)
    }
}

impl From<FileError> for OpenError {
    fn from(error: FileError) -> Self {
        OpenError::Medium(error.into())
    }
}

impl From<FileError> for ReadError {
    fn from(error: FileError) -> Self {
        ReadError::Medium(error.into())
    }
}

impl From<FileError> for TrimError {
    fn from(error: FileError) -> Self {
        TrimError(error.into())
    }
}

impl From<ReplaceError> for ManifestError {
    fn from(error: ReplaceError) -> Self {
        match error {
            ReplaceError::Unchanged(error) if error.is_no_space() => ManifestError::NoSpace(error.into()),
            ReplaceError::Unchanged(error) => ManifestError::Refused(error.into()),
            ReplaceError::Unknown(error) => ManifestError::Unknown(error.into()),
        }
    }
}

impl From<ReplaceError> for RemoveError {
    fn from(error: ReplaceError) -> Self {
        match error {
            ReplaceError::Unchanged(error) => RemoveError::Unchanged(error.into()),
            ReplaceError::Unknown(error) => RemoveError::Unknown(error.into()),
        }
    }
}
