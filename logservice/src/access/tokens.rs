//! The tokens file: which token may use which shard, in which role.
//!
//! Only digests of names and tokens are kept, under a key that is drawn at each start, and a lookup compares all of them. So the time of an
//! answer reveals neither the length of a token nor whether a shard has one, and no token appears in a log line or in `Debug` output.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use durability_protocol::is_valid_name;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::roles::{TokenRole, TokenRoles};

/// Longest token in bytes.
const MAX_TOKEN_BYTES: usize = 1024;
/// Tokens of fewer bytes cause a warning.
const LEAST_TOKEN_BYTES: usize = 16;
/// Most lines that the warning names.
const MAX_LINES_NAMED: usize = 10;

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
    /// A line of it is malformed. The line itself is not shown, as it may hold a token.
    #[error("tokens file {} line {line}: {reason}; a line is: shard token [role], with * as shard for all shards", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which line, counted from one.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

/// The tokens that are accepted, each for one shard or for all, with its role.
pub struct Tokens {
    key: [u8; 32],
    entries: Vec<Entry>,
    /// Lines whose tokens are short enough to be guessed.
    short: Vec<usize>,
}

#[derive(PartialEq, Eq)]
struct Entry {
    opens_all: bool,
    /// Digest of the shard's name.
    shard: [u8; 32],
    token: [u8; 32],
    role: TokenRole,
}

/// The digest of a token that a client presented. Comparable with all [`Tokens`] that this process has read.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.entries.len())
    }
}

impl std::fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a token")
    }
}

impl Tokens {
    /// Reads a tokens file. Warns if other users of the machine can read it, and of tokens that can be guessed.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it cannot be used.
    pub fn read(path: &Path) -> Result<Self, TokensError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| unreadable(path, std::io::Error::other(error)))?;
        Self::read_with(path, key)
    }

    /// Reads a tokens file again. Digests stay comparable.
    ///
    /// # Errors
    /// As [`Tokens::read`].
    pub fn read_again(&self, path: &Path) -> Result<Self, TokensError> {
        Self::read_with(path, self.key)
    }

    fn read_with(path: &Path, key: [u8; 32]) -> Result<Self, TokensError> {
        let bytes = std::fs::read(path).map_err(|source| unreadable(path, source))?;
        let open_to_others = durability_tls::open_to_others(path).map_err(|source| unreadable(path, source))?;
        if let Some(warning) = open_to_others {
            tracing::warn!("the tokens file {warning}");
        }
        let parsed = text(&bytes).and_then(|text| Self::parse(text, key));
        let tokens = parsed.map_err(|(line, reason)| TokensError::Malformed { path: path.to_owned(), line, reason })?;
        if let Some(lines) = tokens.short_lines() {
            tracing::warn!(
                "tokens file {}: tokens of fewer than {LEAST_TOKEN_BYTES} bytes can be guessed, {lines}: use such as \
                 openssl rand -hex 32 makes",
                path.display()
            );
        }
        Ok(tokens)
    }

    pub(crate) fn parse(text: &str, key: [u8; 32]) -> Result<Self, (usize, &'static str)> {
        let (mut entries, mut short) = (Vec::new(), Vec::new());
        let mut seen = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refuse = |reason| Err((at + 1, reason));
            let mut words = line.split_whitespace();
            let (Some(shard), Some(token), role, None) = (words.next(), words.next(), words.next(), words.next())
            else {
                return refuse("expected two or three words");
            };
            if shard != "*" && !is_valid_name(shard) {
                return refuse("not a valid shard name");
            }
            if token.len() > MAX_TOKEN_BYTES {
                return refuse("the token is too long");
            }
            let Some(role) = role.map_or(Some(TokenRole::Node), TokenRole::from_word) else {
                return refuse("the third word is no role: it is one of discover, observe, follow, operate, node");
            };
            if token.len() < LEAST_TOKEN_BYTES {
                short.push(at + 1);
            }
            let (shard, token) = (shard.as_bytes(), token.as_bytes());
            let (opens_all, shard, token) = (shard == b"*", digest(key, shard), digest(key, token));
            if *seen.entry((shard, token)).or_insert(role) != role {
                return refuse("a line above gives the same token another role for the same shard");
            }
            entries.push(Entry { opens_all, shard, token, role });
        }
        if entries.is_empty() {
            return Err((text.lines().count(), "there is no token in it"));
        }
        Ok(Tokens { key, entries, short })
    }

    /// The lines whose tokens can be guessed, as text; `None` if there are none.
    fn short_lines(&self) -> Option<String> {
        let named: Vec<_> = self.short.iter().take(MAX_LINES_NAMED).map(usize::to_string).collect();
        let more = self.short.len() - named.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!named.is_empty()).then(|| format!("in line {}{more}", named.join(", ")))
    }

    /// Whether these are the tokens of `other`, with the same roles for the same shards. Both must have been read by this process.
    pub fn says_the_same(&self, other: &Tokens) -> bool {
        self.key == other.key && self.entries == other.entries
    }

    /// The digest of a token.
    pub fn digest(&self, token: &[u8]) -> TokenDigest {
        TokenDigest(digest(self.key, token))
    }

    /// The roles that `token` has for `shard`; none if it is not for that shard.
    pub fn roles(&self, shard: &str, token: &TokenDigest) -> TokenRoles {
        let shard = digest(self.key, shard.as_bytes());
        self.of_entries(|entry| Choice::from(u8::from(entry.opens_all)) | entry.shard.ct_eq(&shard), token)
    }

    /// The roles that `token` has for every shard.
    pub fn roles_for_all(&self, token: &TokenDigest) -> TokenRoles {
        self.of_entries(|entry| Choice::from(u8::from(entry.opens_all)), token)
    }

    /// The roles that `token` has for some shard.
    pub fn roles_for_any(&self, token: &TokenDigest) -> TokenRoles {
        self.of_entries(|_| Choice::from(1), token)
    }

    fn of_entries(&self, applies: impl Fn(&Entry) -> Choice, token: &TokenDigest) -> TokenRoles {
        let add = |roles: u8, entry: &Entry| {
            let with = roles | TokenRoles::from(entry.role).bits();
            u8::conditional_select(&roles, &with, applies(entry) & entry.token.ct_eq(&token.0))
        };
        TokenRoles::from_bits(self.entries.iter().fold(0, add))
    }
}

/// The file's text, or the line that is none.
fn text(bytes: &[u8]) -> Result<&str, (usize, &'static str)> {
    std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        (line, "it is no text in UTF-8")
    })
}

fn unreadable(path: &Path, source: std::io::Error) -> TokensError {
    TokensError::Read { path: path.to_owned(), source }
}

fn digest(key: [u8; 32], text: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(key).chain_update(text).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Tokens, (usize, &'static str)> {
        Tokens::parse(text, [7; 32])
    }

    fn roles(tokens: &Tokens, shard: &str, token: &str) -> String {
        tokens.roles(shard, &tokens.digest(token.as_bytes())).to_string()
    }

    #[test]
    fn a_token_opens_its_own_shard_and_a_star_opens_all() {
        let tokens = parse("# comment\n\ns1 one\n s2\ttwo \n* all\n").expect("parses");
        for (shard, token) in [("s1", "one"), ("s2", "two"), ("s9", "all")] {
            assert_eq!(roles(&tokens, shard, token), "node");
        }
        for (shard, token) in [("s1", "two"), ("s1", ""), ("s9", "one"), ("*", "one"), ("", "one"), ("s1", "one ")] {
            assert_eq!(roles(&tokens, shard, token), "");
        }
        let for_all = |token: &str| tokens.roles_for_all(&tokens.digest(token.as_bytes()));
        assert!(!for_all("all").is_empty() && for_all("one").is_empty());
        let for_any = |token: &str| tokens.roles_for_any(&tokens.digest(token.as_bytes()));
        assert!(!for_any("two").is_empty() && for_any("three").is_empty() && for_any("").is_empty());
    }

    #[test]
    fn the_third_word_is_the_role_and_lines_for_one_and_for_all_shards_add_up() {
        let tokens = parse("s1 a discover\ns1 b follow\n* c operate\ns2 c follow\ns1 d node\n").expect("parses");
        for (shard, token, expected) in [
            ("s1", "a", "discover"),
            ("s2", "a", ""),
            ("s1", "b", "follow"),
            ("s1", "c", "operate"),
            ("s2", "c", "follow and operate"),
            ("s1", "d", "node"),
        ] {
            assert_eq!(roles(&tokens, shard, token), expected, "{shard} {token}");
        }
        assert_eq!(tokens.roles_for_all(&tokens.digest(b"c")).to_string(), "operate");
    }

    #[test]
    fn a_malformed_file_is_refused_by_line() {
        for (text, line, why) in [
            ("s1 one\ns2\n", 2, "two or three words"),
            ("a b node c", 1, "two or three words"),
            ("a b c", 1, "one of discover, observe, follow, operate, node"),
            ("a b Node", 1, "no role"),
            ("../x token", 1, "shard name"),
            ("s1 a\ns1 b\n\ns1 a discover", 4, "another role"),
            ("# nothing\n", 1, "no token"),
            ("", 0, "no token"),
        ] {
            let (at, reason) = parse(text).expect_err("malformed");
            assert!(at == line && reason.contains(why), "{text:?}: {at} {reason}");
        }
        assert!(parse("s1 a\ns1 a node\ns2 a discover\n* a follow\n").is_ok());
    }

    #[test]
    fn a_file_with_one_line_that_cannot_be_used_is_refused_by_that_line_whatever_is_wrong_with_it() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("tokens");
        let write = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
        };
        write(b"s1 a-token-of-some-length\n");
        let tokens = Tokens::read(&path).expect("usable");
        for (bad, why) in [
            (&b"s1 secret\xff"[..], "no text in UTF-8"),
            (b"s1 secret extra more", "two or three"),
            (b"..x secret", "name"),
        ] {
            write(&[b"s1 a-token-of-some-length\n# comment\n", bad, b"\ns2 another-token-of-some-length\n"].concat());
            for result in [Tokens::read(&path), tokens.read_again(&path)] {
                let error = result.expect_err("a line of it cannot be used").to_string();
                assert!(error.contains(" line 3: ") && error.contains(why) && !error.contains("secret"), "{error}");
            }
        }
    }

    #[test]
    fn no_token_is_shown() {
        let tokens = parse("s1 secret-token\n* another-secret\n").expect("parses");
        assert_eq!(format!("{tokens:?} {:?}", tokens.digest(b"secret-token")), "2 tokens a token");
        let (_, reason) = parse("s1 secret-token extra\n").expect_err("malformed");
        assert!(!reason.contains("secret"));
    }

    #[test]
    fn tokens_that_can_be_guessed_are_named_by_line() {
        let (short, long) = ("x".repeat(LEAST_TOKEN_BYTES - 1), "x".repeat(LEAST_TOKEN_BYTES));
        let lines = |text: &str| parse(text).expect("parses").short_lines();
        assert_eq!(lines(&format!("s1 {long}\n")), None);
        assert_eq!(lines(&format!("s1 {short}\ns1 {long}\n\n* {short}\n")).as_deref(), Some("in line 1, 4"));
        assert!(lines(&"s1 a\n".repeat(30)).is_some_and(|lines| lines.ends_with(", 10 and 20 more")));
    }

    #[test]
    fn any_file_is_tokens_or_a_line_that_is_wrong() {
        bolero::check!().with_type::<String>().for_each(|text| {
            allocation::within(256 * text.len() + 4096, || match parse(text) {
                Ok(tokens) => {
                    assert!(tokens.entries.len() <= text.lines().count());
                    assert!(tokens.roles_for_any(&tokens.digest(b"")).is_empty());
                }
                Err((line, _)) => assert!(line <= text.lines().count()),
            });
        });
    }
}
