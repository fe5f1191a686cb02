//! The file `VOTE`: what a member has promised to the others. It is written, and synced, before anybody is told of it.
//!
//! Two slots that never share a sector hold the same vote, are written one after the other, and are synced together. A disk writes a sector
//! as a whole or not at all, so a crash leaves each slot as it was or as it is to be; damage to either leaves the other. If they differ,
//! the one with the higher number was being written last, and counts: nobody was told of it, nor of the one before any more. If a crash
//! leaves neither sound after all, the copy is refused, and nothing that was promised is broken. A slot:
//!
//! | byte | bytes | |
//! |---|---|---|
//! | 0 | 8 | `VKDRVOTE` |
//! | 8 | 8 | number: grows with each vote |
//! | 16 | 8 | term |
//! | 24 | 8 | member that got the vote in that term; 0 if none did |
//! | 32 | 4 | checksum of bytes 0 to 31 and of the group's name |

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::base::file_error::{FileError, InFile};
use crate::replica::copy::Vote;
use crate::store::file_store::files::Step;
use crate::store::OpenError;

/// Name of the file in a copy's directory.
pub const VOTE: &str = "VOTE";

const MAGIC: [u8; 8] = *b"VKDRVOTE";
const SLOT_BYTES: usize = 36;
/// The distance between the slots: more than any disk writes at once.
const SLOT_STEP: u64 = 4096;
const SLOTS: u64 = 2;

/// The open file.
#[derive(Debug)]
pub struct VoteFile {
    path: PathBuf,
    group: String,
    file: File,
    number: u64,
    vote: Vote,
}

impl VoteFile {
    /// Makes the file, with no vote. The caller syncs the directory.
    pub fn create(directory: &Path, group: &str) -> Result<(), FileError> {
        let path = directory.join(VOTE);
        let file = Step::VoteCreate.create(&path).in_file("cannot create", &path)?;
        let mut created = VoteFile { path, group: group.to_owned(), file, number: 0, vote: Vote::default() };
        created.write()
    }

    /// Opens the file and writes again what it says: it may have been read from the page cache, and one slot may be damaged.
    ///
    /// # Errors
    /// No slot is sound. A member that has forgotten its vote must never vote.
    pub fn open(directory: &Path, group: &str) -> Result<Self, OpenError> {
        let mut opened = Self::read(directory, group, true)?;
        opened.write()?;
        Ok(opened)
    }

    /// The vote in the file, which is not changed.
    ///
    /// # Errors
    /// No slot is sound.
    pub fn look(directory: &Path, group: &str) -> Result<Vote, OpenError> {
        Ok(Self::read(directory, group, false)?.vote)
    }

    fn read(directory: &Path, group: &str, writes: bool) -> Result<Self, OpenError> {
        let path = directory.join(VOTE);
        let wrong = |reason: String| OpenError::Manifest { place: path.display().to_string(), reason };
        let opened = OpenOptions::new().read(true).write(writes).open(&path);
        if opened.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Err(wrong("it is missing: a copy that has forgotten its vote must not vote".to_owned()));
        }
        let file = opened.in_file("cannot open", &path)?;
        let mut newest = None;
        for slot in 0..SLOTS {
            let mut bytes = [0; SLOT_BYTES];
            match file.read_exact_at(&mut bytes, slot * SLOT_STEP) {
                // A damaged length.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => continue,
                read => read.in_file("cannot read", &path)?,
            }
            newest = newest.max(decode(&bytes, group));
        }
        let Some((number, term, member)) = newest else {
            return Err(wrong(
                "both votes in it are damaged: a copy that has forgotten its vote must not vote".to_owned(),
            ));
        };
        let (vote, group) = (Vote { term, member }, group.to_owned());
        Ok(VoteFile { path, group, file, number, vote })
    }

    /// The vote.
    pub fn vote(&self) -> Vote {
        self.vote
    }

    /// Replaces the vote. It survives a crash when this returns.
    pub fn replace(&mut self, vote: Vote) -> Result<(), FileError> {
        if vote == self.vote {
            return Ok(());
        }
        self.number += 1;
        self.vote = vote;
        self.write()
    }

    fn write(&mut self) -> Result<(), FileError> {
        let bytes = encode(self.number, self.vote, &self.group);
        for slot in 0..SLOTS {
            Step::VoteWrite
                .write_all_at(&self.file, &bytes, slot * SLOT_STEP)
                .in_file("cannot write to", &self.path)?;
        }
        Step::VoteSync.sync_data(&self.file).in_file("cannot sync", &self.path)
    }
}

fn encode(number: u64, vote: Vote, group: &str) -> [u8; SLOT_BYTES] {
    let mut out = [0; SLOT_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..16].copy_from_slice(&number.to_le_bytes());
    out[16..24].copy_from_slice(&vote.term.to_le_bytes());
    out[24..32].copy_from_slice(&vote.member.to_le_bytes());
    let checksum = checksum(&out, group);
    out[32..].copy_from_slice(&checksum);
    out
}

/// Number, term and member of a slot; none if it is not sound.
fn decode(bytes: &[u8; SLOT_BYTES], group: &str) -> Option<(u64, u64, u64)> {
    let is_sound = bytes[..8] == MAGIC && bytes[32..] == checksum(bytes, group);
    let number_at = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
    is_sound.then(|| Some((number_at(8)?, number_at(16)?, number_at(24)?))).flatten()
}

fn checksum(bytes: &[u8; SLOT_BYTES], group: &str) -> [u8; 4] {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..32]), group.as_bytes()).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn made() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("tempdir");
        VoteFile::create(directory.path(), "s1").expect("created");
        directory
    }

    #[test]
    fn the_newest_vote_counts_also_if_either_slot_is_damaged() {
        let directory = made();
        let path = directory.path().join(VOTE);
        let mut file = VoteFile::open(directory.path(), "s1").expect("opened");
        assert_eq!(file.vote(), Vote::default());
        let vote = Vote { term: 7, member: 3 };
        file.replace(Vote { term: 6, member: 9 }).expect("replaced");
        let before = fs::read(&path).expect("read");
        file.replace(vote).expect("replaced");
        let written = fs::read(&path).expect("read");
        for slot in [0, SLOT_STEP as usize] {
            for byte in slot..slot + SLOT_BYTES {
                let mut damaged = written.clone();
                damaged[byte] ^= 1;
                fs::write(&path, &damaged).expect("written");
                assert_eq!(VoteFile::open(directory.path(), "s1").expect("opened").vote(), vote, "byte {byte}");
                assert_eq!(fs::read(&path).expect("read"), written, "the damaged slot is mended");
            }
        }
        // A crash between the two.
        let mut half = before;
        half[..SLOT_STEP as usize].copy_from_slice(&written[..SLOT_STEP as usize]);
        fs::write(&path, &half).expect("written");
        assert_eq!(VoteFile::open(directory.path(), "s1").expect("opened").vote(), vote);
    }

    #[test]
    fn a_copy_without_a_sound_vote_is_refused() {
        let directory = made();
        let path = directory.path().join(VOTE);
        let refused = |name: &str| VoteFile::open(directory.path(), name).expect_err("refused").to_string();
        assert!(refused("s2").contains("both votes in it are damaged"), "the file of another group");
        let mut bytes = fs::read(&path).expect("read");
        (bytes[16], bytes[SLOT_STEP as usize + 30]) = (1, 1);
        fs::write(&path, &bytes).expect("written");
        assert!(refused("s1").contains("VOTE: both votes in it are damaged"));
        fs::write(&path, b"").expect("written");
        assert!(refused("s1").contains("both votes in it are damaged"));
        fs::remove_file(&path).expect("removed");
        assert!(refused("s1").contains("VOTE: it is missing"));
    }
}
