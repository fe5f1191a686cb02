//! Who may use which shard.
//!
//! What is kept of names and tokens are digests under a key that is drawn at each start, and every one of them is compared.
//! So how long an answer takes tells neither how long a token is, nor whether there is one for a shard; and a token stands in
//! no log line, no `Debug` output and no core file's list of tokens.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use durability_protocol::is_valid_name;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Longest token in bytes.
const MAX_TOKEN_BYTES: usize = 1024;

/// The tokens file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It could not be read.
    #[error("cannot read the tokens file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of it says nothing that can be used. The line itself is not shown: it may hold a token.
    #[error("tokens file {} line {line}: {reason}; a line is: shard token (or * token for all shards)", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which line, counted from one.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

/// The tokens that are accepted, each for one shard or for all.
pub struct Tokens {
    key: [u8; 32],
    entries: Vec<Entry>,
}

struct Entry {
    opens_all: bool,
    /// Of the shard's name.
    shard: [u8; 32],
    token: [u8; 32],
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.entries.len())
    }
}

impl Tokens {
    /// Reads a tokens file. Warns if users of the machine who are not meant to can read it.
    pub fn read(path: &Path) -> Result<Self, TokensError> {
        let unreadable = |source| TokensError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
        if is_open_to_others(mode) {
            let path = path.display();
            tracing::warn!(
                "the tokens file {path} has mode {mode:04o}: every user of this machine can use it; chmod 600 {path}"
            );
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| unreadable(std::io::Error::other(error)))?;
        Self::parse(&text, key).map_err(|(line, reason)| TokensError::Malformed { path: path.to_owned(), line, reason })
    }

    pub(crate) fn parse(text: &str, key: [u8; 32]) -> Result<Self, (usize, &'static str)> {
        let mut entries = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(shard), Some(token), None) = (words.next(), words.next(), words.next()) else {
                return Err((at + 1, "expected two words"));
            };
            if shard != "*" && !is_valid_name(shard) {
                return Err((at + 1, "not a valid shard name"));
            }
            if token.len() > MAX_TOKEN_BYTES {
                return Err((at + 1, "the token is too long"));
            }
            let (shard, token) = (shard.as_bytes(), token.as_bytes());
            entries.push(Entry { opens_all: shard == b"*", shard: digest(key, shard), token: digest(key, token) });
        }
        if entries.is_empty() {
            return Err((text.lines().count(), "there is no token in it"));
        }
        Ok(Tokens { key, entries })
    }

    /// Whether `token` opens `shard`.
    pub fn allow(&self, shard: &str, token: &[u8]) -> bool {
        let shard = digest(self.key, shard.as_bytes());
        self.any(|entry| Choice::from(u8::from(entry.opens_all)) | entry.shard.ct_eq(&shard), token)
    }

    /// Whether `token` opens every shard.
    pub fn allow_all(&self, token: &[u8]) -> bool {
        self.any(|entry| Choice::from(u8::from(entry.opens_all)), token)
    }

    /// Whether `token` opens any shard.
    pub fn allow_any(&self, token: &[u8]) -> bool {
        self.any(|_| Choice::from(1), token)
    }

    fn any(&self, applies: impl Fn(&Entry) -> Choice, token: &[u8]) -> bool {
        let token = digest(self.key, token);
        let opens = |opened, entry: &Entry| opened | (applies(entry) & entry.token.ct_eq(&token));
        self.entries.iter().fold(Choice::from(0), opens).into()
    }
}

fn digest(key: [u8; 32], text: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(key).chain_update(text).finalize().into()
}

/// Whether a file's mode lets every user read or change it, or its group change it.
pub(crate) fn is_open_to_others(mode: u32) -> bool {
    mode & 0o026 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Tokens, (usize, &'static str)> {
        Tokens::parse(text, [7; 32])
    }

    #[test]
    fn a_token_opens_its_own_shard_and_a_star_opens_all() {
        let tokens = parse("# comment\n\ns1 one\n s2\ttwo \n* all\n").expect("parses");
        assert!(tokens.allow("s1", b"one") && tokens.allow("s2", b"two") && tokens.allow("s9", b"all"));
        assert!(!tokens.allow("s1", b"two") && !tokens.allow("s1", b"") && !tokens.allow("s9", b"one"));
        assert!(!tokens.allow("*", b"one") && !tokens.allow("", b"one") && !tokens.allow("s1", b"one "));
        assert!(tokens.allow_all(b"all") && !tokens.allow_all(b"one"));
        assert!(tokens.allow_any(b"two") && !tokens.allow_any(b"three") && !tokens.allow_any(b""));
    }

    #[test]
    fn a_malformed_file_is_refused_by_line() {
        for (text, line) in [("s1 one\ns2\n", 2), ("a b c", 1), ("../x token", 1), ("# nothing\n", 1), ("", 0)] {
            assert_eq!(parse(text).err().map(|(at, _)| at), Some(line), "{text:?}");
        }
    }

    #[test]
    fn no_token_is_shown() {
        let tokens = parse("s1 secret-token\n* another-secret\n").expect("parses");
        assert_eq!(format!("{tokens:?}"), "2 tokens");
        let (_, reason) = parse("s1 secret-token extra\n").expect_err("malformed");
        assert!(!reason.contains("secret"));
    }

    #[test]
    fn a_file_that_others_can_use_is_told_from_one_that_they_cannot() {
        for (mode, expected) in
            [(0o600, false), (0o640, false), (0o400, false), (0o644, true), (0o660, true), (0o602, true)]
        {
            assert_eq!(is_open_to_others(mode), expected, "{mode:o}");
        }
    }

    #[test]
    fn any_file_is_tokens_or_a_line_that_is_wrong() {
        bolero::check!().with_type::<String>().for_each(|text| {
            allocation::within(64 * text.len() + 4096, || match parse(text) {
                Ok(tokens) => assert!(tokens.entries.len() <= text.lines().count() && !tokens.allow_any(b"")),
                Err((line, _)) => assert!(line <= text.lines().count()),
            });
        });
    }
}
