//! The file `COPY`: where a copy begins, and what the group was after some prefix of its log. Replaced as a whole, so that a crash leaves
//! either.

use std::fs;
use std::path::Path;

use base64::prelude::{Engine, BASE64_STANDARD};
use bytes::Bytes;
use raft::eraftpb::ConfState;
use serde::{Deserialize, Serialize};

use crate::base::file_error::FileError;
use crate::replica::copy::{Base, Checkpoint, Position};
use crate::store::file_store::checksum_line;
use crate::store::file_store::files::{replace_file, ReplaceError};
use crate::store::OpenError;

/// Name of the file in a copy's directory.
pub const COPY: &str = "COPY";
/// The version of what it says.
const FORMAT: u32 = 1;

/// What the file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// Where the copy begins.
    pub base: Base,
    /// At or above the base, at or below the last entry.
    pub checkpoint: Checkpoint,
    /// Segments with a lower sequence are of what the copy held before it began anew.
    pub first_sequence: u64,
    /// The copy began anew because it was damaged: it may have acknowledged what it has lost, in terms up to this one. Of no meaning once the
    /// checkpoint is of a later term.
    pub lost_in: Option<u64>,
}

impl Head {
    /// Reads the file in a copy's directory.
    pub fn read(directory: &Path, group: &str) -> Result<Self, OpenError> {
        let path = directory.join(COPY);
        let wrong = |reason: String| OpenError::Manifest { place: path.display().to_string(), reason };
        match fs::read(&path) {
            Ok(bytes) => checksum_line::verify(&bytes).and_then(|text| parse(text, group)).map_err(wrong),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(wrong("it is missing".to_owned())),
            Err(error) => Err(FileError { action: "cannot read", path, source: error }.into()),
        }
    }

    /// Replaces the file.
    pub fn replace(&self, directory: &Path, group: &str) -> Result<(), ReplaceError> {
        let text = serde_json::to_vec_pretty(&Written::new(self, group)).map_err(|error| {
            let path = directory.join(COPY);
            ReplaceError::Unchanged(FileError { action: "cannot encode", path, source: error.into() })
        })?;
        replace_file(directory, COPY, &checksum_line::add(&text))
    }
}

/// The state in the file, of whichever group it is.
///
/// # Errors
/// The file is damaged.
pub fn state_in(bytes: &[u8]) -> Result<Bytes, String> {
    let text = checksum_line::verify(bytes)?;
    let written: Written = serde_json::from_slice(text).map_err(|error| format!("it cannot be read: {error}"))?;
    Ok(written.head()?.checkpoint.state)
}

fn parse(text: &[u8], group: &str) -> Result<Head, String> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let malformed = |error: serde_json::Error| format!("it cannot be read: {error}");
    let Version { format } = serde_json::from_slice(text).map_err(malformed)?;
    if format != FORMAT {
        return Err(format!(
            "written by another version (format {format}, this one reads {FORMAT}): upgrade logservice"
        ));
    }
    let written: Written = serde_json::from_slice(text).map_err(malformed)?;
    if written.group != group {
        return Err(format!("it is of the copy of '{}'", written.group));
    }
    written.head()
}

/// As it is encoded.
#[derive(Serialize, Deserialize)]
struct Written {
    format: u32,
    group: String,
    base: WrittenPosition,
    base_members: Members,
    checkpoint: WrittenCheckpoint,
    first_sequence: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost_in: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct WrittenPosition {
    index: u64,
    term: u64,
    end: u64,
    checksum: u32,
}

#[derive(Serialize, Deserialize)]
struct WrittenCheckpoint {
    position: WrittenPosition,
    revision: u64,
    epoch: u64,
    /// In Base64.
    state: String,
    state_index: u64,
    members: Vec<(u64, Members)>,
}

#[derive(Serialize, Deserialize)]
struct Members {
    voters: Vec<u64>,
    learners: Vec<u64>,
    voters_outgoing: Vec<u64>,
    learners_next: Vec<u64>,
    auto_leave: bool,
}

impl Written {
    fn new(head: &Head, group: &str) -> Self {
        let Checkpoint { position, revision, epoch, state, state_index, members } = &head.checkpoint;
        Written {
            format: FORMAT,
            group: group.to_owned(),
            base: head.base.position.into(),
            base_members: (&head.base.members).into(),
            checkpoint: WrittenCheckpoint {
                position: (*position).into(),
                revision: *revision,
                epoch: *epoch,
                state: BASE64_STANDARD.encode(state),
                state_index: *state_index,
                members: members.iter().map(|(from, members)| (*from, members.into())).collect(),
            },
            first_sequence: head.first_sequence,
            lost_in: head.lost_in.filter(|lost_in| *lost_in >= head.checkpoint.position.term),
        }
    }

    fn head(self) -> Result<Head, String> {
        let WrittenCheckpoint { position, revision, epoch, state, state_index, members } = self.checkpoint;
        let state = BASE64_STANDARD.decode(state).map_err(|error| format!("its state cannot be read: {error}"))?;
        let checkpoint = Checkpoint {
            position: position.into(),
            revision,
            epoch,
            state: state.into(),
            state_index,
            members: members.into_iter().map(|(from, members)| (from, members.into())).collect(),
        };
        let base = Base { position: self.base.into(), members: self.base_members.into() };
        if checkpoint.position.index < base.position.index || checkpoint.members.is_empty() {
            return Err("it contradicts itself".to_owned());
        }
        let lost_in = self.lost_in.filter(|lost_in| *lost_in >= checkpoint.position.term);
        Ok(Head { base, checkpoint, first_sequence: self.first_sequence, lost_in })
    }
}

impl From<Position> for WrittenPosition {
    fn from(Position { index, term, end, checksum }: Position) -> Self {
        WrittenPosition { index, term, end, checksum }
    }
}

impl From<WrittenPosition> for Position {
    fn from(WrittenPosition { index, term, end, checksum }: WrittenPosition) -> Self {
        Position { index, term, end, checksum }
    }
}

impl From<&ConfState> for Members {
    fn from(members: &ConfState) -> Self {
        Members {
            voters: members.voters.clone(),
            learners: members.learners.clone(),
            voters_outgoing: members.voters_outgoing.clone(),
            learners_next: members.learners_next.clone(),
            auto_leave: members.auto_leave,
        }
    }
}

impl From<Members> for ConfState {
    fn from(members: Members) -> Self {
        ConfState {
            voters: members.voters,
            learners: members.learners,
            voters_outgoing: members.voters_outgoing,
            learners_next: members.learners_next,
            auto_leave: members.auto_leave,
            ..ConfState::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn head() -> Head {
        let position = Position { index: 5, term: 2, end: 100, checksum: 9 };
        let members =
            ConfState { voters: vec![1, 2, u64::MAX], learners: vec![4], auto_leave: true, ..ConfState::default() };
        let checkpoint = Checkpoint {
            position: Position { index: 8, ..position },
            revision: 3,
            epoch: 2,
            state: Bytes::from_static(b"\x00\xff state"),
            state_index: 9,
            members: vec![(1, ConfState::default()), (7, members.clone())],
        };
        Head { base: Base { position, members }, checkpoint, first_sequence: 3, lost_in: None }
    }

    #[test]
    fn what_is_written_is_read_and_no_flip_passes() {
        let directory = tempfile::tempdir().expect("tempdir");
        let write = head().replace(directory.path(), "s1");
        assert!(write.is_ok());
        assert_eq!(Head::read(directory.path(), "s1").expect("read"), head());
        assert!(Head::read(directory.path(), "s2")
            .expect_err("refused")
            .to_string()
            .contains("it is of the copy of 's1'"));
        let path = directory.path().join(COPY);
        let written = fs::read(&path).expect("read");
        for byte in 0..written.len() {
            let mut flipped = written.clone();
            flipped[byte] ^= 4;
            fs::write(&path, &flipped).expect("written");
            assert!(Head::read(directory.path(), "s1").is_err(), "byte {byte}");
        }
    }

    #[test]
    fn what_another_version_or_nobody_writes_is_refused() {
        let text = |change: fn(&mut serde_json::Value)| {
            let mut value = serde_json::to_value(Written::new(&head(), "s1")).expect("encoded");
            change(&mut value);
            parse(value.to_string().as_bytes(), "s1")
        };
        assert_eq!(text(|_| {}), Ok(head()));
        assert!(text(|value| value["format"] = 2.into()).expect_err("refused").contains("upgrade logservice"));
        assert!(text(|value| value["checkpoint"]["position"]["index"] = 4.into()).is_err());
        assert!(text(|value| value["checkpoint"]["members"] = serde_json::json!([])).is_err());
        assert!(text(|value| value["checkpoint"]["state"] = "=".into()).is_err());
    }
}
