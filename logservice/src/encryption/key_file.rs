//! The key file: lines of `id key`.

use std::path::{Path, PathBuf};

use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::DecodePaddingMode;
use base64::{alphabet, Engine};
use durability_protocol::is_valid_name;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::data_key::{DataKey, KEY_BYTES};

/// Stands in place of the first key if new data is not encrypted.
const PLAIN: &str = "plain";

/// Largest key file in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read the key file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Other users can read or change it.
    #[error("the key file {0}")]
    OpenToOthers(String),
    /// A line of it is malformed. The line itself is not shown, as it may hold a key.
    #[error("key file {} line {line}: {reason}; a line is: id key, the key 32 random bytes in base64 or hex digits", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which line, counted from one.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// A key has changed although its id has not.
    #[error("key file {}: '{id}' is another key than before: what is encrypted with that id could not be read; give new keys new ids", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The id.
        id: String,
    },
    /// A key that is in use is missing.
    #[error("key file {}: '{id}' is not in it any more, and {used_by} is encrypted with it: put it back, behind the first line, until `logservice check` names it no more", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// The id.
        id: String,
        /// What is encrypted with it.
        used_by: String,
    },
}

/// Something that is encrypted with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    /// The key's id.
    pub id: String,
    /// What it is, as "log of shard s1".
    pub used_by: String,
}

/// A key of the file.
#[derive(Debug)]
pub struct MasterKey {
    /// Its name.
    pub id: String,
    /// Wraps data keys, and encrypts nothing else.
    pub key: DataKey,
    /// To compare it with another key. Not shown, as it would help to guess the key.
    pub digest: [u8; 32],
}

/// The content of a key file.
#[derive(Debug, Default)]
pub struct Keys {
    /// All keys, in order.
    pub all: Vec<MasterKey>,
    /// Whether new data is encrypted with the first.
    pub encrypts: bool,
}

impl Keys {
    /// Reads a key file.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let unreadable = |source| KeyFileError::Read { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if let Some(what) = durability_tls::open_to_others(path).map_err(unreadable)? {
            return Err(KeyFileError::OpenToOthers(what));
        }
        if metadata.len() > MAX_FILE_BYTES {
            return Err(unreadable(std::io::ErrorKind::FileTooLarge.into()));
        }
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
        Self::parse(&text).map_err(|(line, reason)| KeyFileError::Malformed { path: path.to_owned(), line, reason })
    }

    /// The error is the line, counted from one, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut keys = Keys { all: Vec::new(), encrypts: true };
        for (at, line) in text.lines().enumerate() {
            let wrong = |reason| (at + 1, reason);
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line == PLAIN && keys.encrypts && keys.all.is_empty() {
                keys.encrypts = false;
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(id), Some(key), None) = (words.next(), words.next(), words.next()) else {
                return Err(wrong("expected two words"));
            };
            if !is_valid_name(id) {
                return Err(wrong("not a valid id: 1 to 64 of A-Z a-z 0-9 . _ : -"));
            }
            if keys.all.iter().any(|other| other.id == id) {
                return Err(wrong("there is a key of that id already"));
            }
            let bytes = decode(key).ok_or_else(|| wrong("the key is not 32 bytes in base64 or hex digits"))?;
            if bytes.iter().all(|byte| *byte == bytes[0]) {
                return Err(wrong("the key is not random"));
            }
            let digest = Sha256::digest(&bytes[..]).into();
            keys.all.push(MasterKey { id: id.to_owned(), key: DataKey::new(&bytes), digest });
        }
        if keys.all.is_empty() {
            return Err((text.lines().count(), "there is no key in it"));
        }
        Ok(keys)
    }
}

fn decode(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut out = Zeroizing::new([0; KEY_BYTES]);
    if text.len() == KEY_BYTES * 2 {
        for (byte, digits) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let [high, low] = [digits[0], digits[1]].map(|digit| char::from(digit).to_digit(16));
            *byte = (high? << 4 | low?) as u8;
        }
        return Some(out);
    }
    // The decoder needs room for the most that so many characters may stand for.
    let mut decoded = Zeroizing::new([0; KEY_BYTES + 2]);
    let length = BASE64.decode_slice(text, &mut decoded[..]).ok()?;
    out.copy_from_slice(decoded[..length].get(..KEY_BYTES).filter(|_| length == KEY_BYTES)?);
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1F";
    const BASE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn parse(text: &str) -> Result<Keys, (usize, &'static str)> {
        Keys::parse(text)
    }

    #[test]
    fn a_key_is_the_same_in_hex_digits_and_in_base64() {
        let keys =
            parse(&format!("# new\n\n b {HEX} \na\t{BASE}\nc {}\n", BASE.trim_end_matches('='))).expect("parses");
        assert_eq!(keys.all.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["b", "a", "c"]);
        assert!(keys.encrypts && keys.all.windows(2).all(|pair| pair[0].digest == pair[1].digest));
    }

    #[test]
    fn plain_stands_in_place_of_the_first_key_only() {
        assert!(!parse(&format!("plain\nb {HEX}\n")).expect("parses").encrypts);
        assert_eq!(parse("plain\n").err(), Some((1, "there is no key in it")));
        assert_eq!(parse(&format!("b {HEX}\nplain\n")).err(), Some((2, "expected two words")));
    }

    #[test]
    fn a_malformed_file_is_refused_by_line_without_its_keys() {
        let zeros = "0".repeat(64);
        for (text, line) in [
            (format!("a {HEX}\nb\n"), 2),
            (format!("a {HEX} b"), 1),
            (format!("../x {HEX}"), 1),
            (format!("a {}", &HEX[1..]), 1),
            (format!("a {HEX}0"), 1),
            (format!("a {}", &BASE[..40]), 1),
            (format!("a {BASE}AAAA"), 1),
            (format!("a {}", HEX.replace('a', "g")), 1),
            (format!("a {HEX}\n\na {BASE}"), 3),
            (format!("a {zeros}"), 1),
            ("# nothing\n".to_owned(), 1),
            (String::new(), 0),
        ] {
            let (at, reason) = parse(&text).expect_err("malformed");
            assert_eq!(at, line, "{text:?}");
            assert!(!reason.contains("0102") && !reason.contains("AAEC"));
        }
    }

    #[test]
    fn no_key_is_shown() {
        let shown = format!("{:?}", parse(&format!("a {HEX}")).expect("parses").all[0].key);
        assert_eq!(shown, "a key");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("keys");
        std::fs::write(&path, format!("a {HEX}\n")).expect("written");
        for (mode, is_refused) in [(0o644, true), (0o600, false), (0o660, true), (0o440, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("changed");
            let read = Keys::read(&path);
            assert_eq!(matches!(read, Err(KeyFileError::OpenToOthers(_))), is_refused, "{mode:o} {read:?}");
            if let Err(error) = read {
                assert!(error.to_string().contains("chmod 600"), "{error}");
            }
        }
    }

    #[test]
    fn any_file_is_keys_or_a_line_that_is_wrong() {
        bolero::check!().with_type::<(String, bool)>().for_each(|(text, is_prefixed)| {
            let text = if *is_prefixed { format!("a {HEX}\n{text}") } else { text.clone() };
            allocation::within(256 * text.len() + 16_384, || match Keys::parse(&text) {
                Ok(keys) => assert!(!keys.all.is_empty() && keys.all.len() <= text.lines().count()),
                Err((line, _)) => assert!(line <= text.lines().count()),
            });
        });
    }
}
