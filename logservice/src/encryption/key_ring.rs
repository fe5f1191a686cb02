//! The master keys of the service: one for new files, all for reading. They can be exchanged while the service runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::key_file::{KeyFileError, KeyUse, Keys};
use super::{DataKey, Envelope};

/// A file cannot be decrypted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There are no keys at all.
    #[error(
        "it is encrypted with key '{key_id}', and no keys were given: --encrypt-key-file names the file that has it"
    )]
    NoKeys {
        /// The key's id.
        key_id: String,
    },
    /// The key is missing.
    #[error("it is encrypted with key '{key_id}', which is not in the key file {}: add it there, behind the first line", file.display())]
    NotInFile {
        /// The key's id.
        key_id: String,
        /// The file.
        file: PathBuf,
    },
    /// The key of that id does not decrypt it.
    #[error("the key '{key_id}' in the key file {} is not the one that it is encrypted with, or its header was changed", file.display())]
    Wrong {
        /// The key's id.
        key_id: String,
        /// The file.
        file: PathBuf,
    },
}

/// The keys of this process: none, or those of a file, which may change while it runs.
#[derive(Debug, Default)]
pub struct KeyRing {
    file: PathBuf,
    keys: RwLock<Arc<Keys>>,
}

impl KeyRing {
    /// The keys of a file; no keys if there is none.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn read(file: Option<&Path>) -> Result<Arc<Self>, KeyFileError> {
        let Some(file) = file else { return Ok(Arc::default()) };
        Ok(Arc::new(KeyRing { file: file.to_owned(), keys: RwLock::new(Arc::new(Keys::read(file)?)) }))
    }

    /// Keys from the text of a file, for tests.
    ///
    /// # Errors
    /// The malformed line, counted from one, and why.
    pub fn of_text(text: &str) -> Result<Arc<Self>, (usize, &'static str)> {
        Ok(Arc::new(KeyRing { file: PathBuf::from("keys"), keys: RwLock::new(Arc::new(Keys::parse(text)?)) }))
    }

    /// Reads the file again. After an error the keys stay as they were. `uses` are all uses of keys that still have to be decrypted. The
    /// current key for new data counts as in use, as something may be encrypted with it meanwhile: it can be removed from the file only after
    /// a reload with another key for new data.
    ///
    /// # Errors
    /// The file cannot be used, gives the id of a key to another key, or lacks a key that is in use.
    pub fn reload(&self, uses: &[KeyUse]) -> Result<(), KeyFileError> {
        let (new, old) = (Keys::read(&self.file)?, self.keys());
        let changed = |key: &&super::key_file::MasterKey| {
            old.all.iter().any(|before| before.id == key.id && before.digest != key.digest)
        };
        if let Some(key) = new.all.iter().find(changed) {
            return Err(KeyFileError::Changed { path: self.file.clone(), id: key.id.clone() });
        }
        let for_new = self.id_for_new().map(|id| KeyUse { id, used_by: "what is written now".to_owned() });
        let is_gone = |used: &&KeyUse| new.all.iter().all(|key| key.id != used.id);
        if let Some(KeyUse { id, used_by }) = uses.iter().chain(&for_new).find(is_gone).cloned() {
            return Err(KeyFileError::InUse { path: self.file.clone(), id, used_by });
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(())
    }

    /// Whether there are any keys.
    pub fn has_keys(&self) -> bool {
        !self.keys().all.is_empty()
    }

    /// Whether there is a key of that id.
    pub fn has(&self, key_id: &str) -> bool {
        self.keys().all.iter().any(|key| key.id == key_id)
    }

    /// The id of the key for new data; `None` if new data is not encrypted.
    pub fn id_for_new(&self) -> Option<String> {
        self.with_new(|id| id.map(str::to_owned))
    }

    /// Whether `id` is that of the key for new data; `None` stands for no encryption.
    pub fn is_for_new(&self, key_id: Option<&str>) -> bool {
        self.with_new(|id| id == key_id)
    }

    fn with_new<T>(&self, then: impl FnOnce(Option<&str>) -> T) -> T {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        then(keys.all.first().filter(|_| keys.encrypts).map(|key| key.id.as_str()))
    }

    /// A data key for a new file with that context; `None` if new data is not encrypted.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn draw(&self, context: &[u8]) -> std::io::Result<Option<(DataKey, Envelope)>> {
        let keys = self.keys();
        let master = keys.all.first().filter(|_| keys.encrypts);
        master.map(|master| Envelope::draw(&master.id, &master.key, context)).transpose()
    }

    /// The data key of a file with that context.
    ///
    /// # Errors
    /// The key that wrapped it is missing.
    pub fn open(&self, envelope: &Envelope, context: &[u8]) -> Result<DataKey, KeyError> {
        let (keys, key_id, file) = (self.keys(), envelope.key_id.clone(), self.file.clone());
        match keys.all.iter().find(|key| key.id == envelope.key_id) {
            None if keys.all.is_empty() => Err(KeyError::NoKeys { key_id }),
            None => Err(KeyError::NotInFile { key_id, file }),
            Some(master) => envelope.open(&master.key, context).ok_or(KeyError::Wrong { key_id, file }),
        }
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn line(id: &str, first: u8) -> String {
        format!("{id} {first:02x}{}\n", "17".repeat(31))
    }

    #[test]
    fn a_missing_key_is_told_from_a_wrong_one_and_both_are_named() {
        let ring = KeyRing::of_text(&line("k1", 1)).expect("parses");
        let (_, envelope) = ring.draw(b"c").expect("drawn").expect("encrypts");
        assert!(ring.open(&envelope, b"c").is_ok());
        let other = KeyRing::of_text(&line("k2", 1)).expect("parses");
        let error = other.open(&envelope, b"c").expect_err("missing");
        assert!(matches!(error, KeyError::NotInFile { .. }) && error.to_string().contains("key 'k1', which is not in"));
        let wrong = KeyRing::of_text(&line("k1", 2)).expect("parses");
        let error = wrong.open(&envelope, b"c").expect_err("wrong");
        assert!(matches!(error, KeyError::Wrong { .. }) && error.to_string().contains("'k1'"));
        let none = KeyRing::default();
        assert!(none.open(&envelope, b"c").expect_err("none").to_string().contains("--encrypt-key-file"));
        assert!(none.draw(b"c").expect("drawn").is_none());
    }

    #[test]
    fn keys_are_read_again_and_keep_their_ids() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("keys");
        let write = |text: &str| {
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("changed");
        };
        write(&line("k1", 1));
        let ring = KeyRing::read(Some(&path)).expect("read");
        let (_, old) = ring.draw(b"").expect("drawn").expect("encrypts");
        write(&line("k2", 2));
        let text = ring.reload(&[]).expect_err("it is in use").to_string();
        assert!(text.contains("'k1' is not in it any more, and what is written now is encrypted with it"), "{text}");
        write(&(line("k2", 2) + &line("k1", 1)));
        ring.reload(&[]).expect("read again");
        assert_eq!(ring.id_for_new().as_deref(), Some("k2"));
        assert!(ring.open(&old, b"").is_ok() && ring.is_for_new(Some("k2")) && !ring.is_for_new(None));
        write(&line("k2", 2));
        let uses = [KeyUse { id: "k1".to_owned(), used_by: "log of shard s1".to_owned() }];
        let text = ring.reload(&uses).expect_err("it is in use").to_string();
        assert!(text.contains("'k1' is not in it any more, and log of shard s1 is encrypted"), "{text}");
        assert!(ring.open(&old, b"").is_ok(), "the keys stay as they were");
        write(&(line("k2", 2) + &line("k1", 3)));
        assert!(ring.reload(&[]).expect_err("changed").to_string().contains("'k1' is another key"));
        write("nonsense\n");
        assert!(ring.reload(&[]).is_err());
        assert!(ring.open(&old, b"").is_ok(), "the keys stay as they were");
        write(&("plain\n".to_owned() + &line("k2", 2) + &line("k1", 1)));
        ring.reload(&[]).expect("read again");
        assert!(ring.is_for_new(None) && ring.draw(b"").expect("drawn").is_none() && ring.open(&old, b"").is_ok());
        write(&line("k1", 1));
        ring.reload(&[]).expect("nobody uses the other one");
        assert!(!ring.has("k2") && ring.has("k1"));
    }
}
