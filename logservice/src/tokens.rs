//! Who may use which shard.

use std::path::{Path, PathBuf};

use durability_protocol::is_valid_name;
use subtle::ConstantTimeEq;

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
pub struct Tokens(Vec<(Option<String>, String)>);

impl Tokens {
    /// Reads a tokens file.
    pub fn read(path: &Path) -> Result<Self, TokensError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| TokensError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|(line, reason)| TokensError::Malformed { path: path.to_owned(), line, reason })
    }

    fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut tokens = Vec::new();
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
            tokens.push(((shard != "*").then(|| shard.to_owned()), token.to_owned()));
        }
        if tokens.is_empty() {
            return Err((text.lines().count(), "there is no token in it"));
        }
        Ok(Tokens(tokens))
    }

    /// Whether `token` opens `shard`. Takes as long for a wrong token as for a right one.
    pub fn allow(&self, shard: &str, token: &[u8]) -> bool {
        let for_shard = |(name, _): &&(Option<String>, String)| name.as_deref().is_none_or(|name| name == shard);
        self.any(for_shard, token)
    }

    /// Whether `token` opens every shard.
    pub fn allow_all(&self, token: &[u8]) -> bool {
        self.any(|(name, _)| name.is_none(), token)
    }

    fn any(&self, applies: impl Fn(&&(Option<String>, String)) -> bool, token: &[u8]) -> bool {
        let right = self
            .0
            .iter()
            .filter(applies)
            .fold(subtle::Choice::from(0), |right, (_, expected)| right | expected.as_bytes().ct_eq(token));
        right.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_its_own_shard_and_a_star_opens_all() {
        let tokens = Tokens::parse("# comment\n\ns1 one\n s2\ttwo \n* all\n").unwrap_or_else(|_| panic!("parses"));
        assert!(tokens.allow("s1", b"one") && tokens.allow("s2", b"two") && tokens.allow("s9", b"all"));
        assert!(!tokens.allow("s1", b"two") && !tokens.allow("s1", b"") && !tokens.allow("s9", b"one"));
        assert!(tokens.allow_all(b"all") && !tokens.allow_all(b"one"));
    }

    #[test]
    fn a_malformed_file_is_refused_by_line() {
        for (text, line) in [("s1 one\ns2\n", 2), ("a b c", 1), ("../x token", 1), ("# nothing\n", 1), ("", 0)] {
            assert_eq!(Tokens::parse(text).err().map(|(at, _)| at), Some(line), "{text:?}");
        }
    }
}
