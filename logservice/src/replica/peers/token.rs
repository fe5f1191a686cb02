//! The token that the services of a cluster share.

use std::fmt;
use std::path::{Path, PathBuf};

use ring::hmac;
use zeroize::Zeroizing;

/// The shortest token, in bytes.
const LEAST_BYTES: usize = 16;
/// The longest token, in bytes.
const MOST_BYTES: usize = 1024;

/// The file of the token cannot be used. The token itself is not shown.
#[derive(Debug, thiserror::Error)]
pub enum PeerTokenError {
    /// It cannot be read.
    #[error("cannot read the peers' token file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its first line is no token.
    #[error("the first line of the peers' token file {} has {found} bytes: put a token of {LEAST_BYTES} to {MOST_BYTES} bytes there, such as openssl rand -hex 32 makes, the same at each service", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// How many bytes the line has, without space around it.
        found: usize,
    },
}

/// The token, as a key with which services prove that they have it.
#[derive(Clone)]
pub struct PeerToken(hmac::Key);

impl fmt::Debug for PeerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }
}

impl PeerToken {
    /// Reads the token from the first line of a file. Warns if other users of the machine can read the file.
    ///
    /// # Errors
    /// There is no token of a sufficient length.
    pub fn read(path: &Path) -> Result<Self, PeerTokenError> {
        let unreadable = |source| PeerTokenError::Read { path: path.to_owned(), source };
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
        if let Some(warning) = durability_tls::open_to_others(path).map_err(unreadable)? {
            tracing::warn!("the peers' token file {warning}");
        }
        let token = text.lines().next().unwrap_or_default().trim();
        Self::of(token).map_err(|found| PeerTokenError::Length { path: path.to_owned(), found })
    }

    /// A token.
    ///
    /// # Errors
    /// How many bytes it has, if that is too few or too many.
    pub fn of(token: &str) -> Result<Self, usize> {
        match (LEAST_BYTES..=MOST_BYTES).contains(&token.len()) {
            true => Ok(PeerToken(hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes()))),
            false => Err(token.len()),
        }
    }

    pub(super) fn key(&self) -> &hmac::Key {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_file_is_the_token_and_is_never_shown() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("token");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("written");
            PeerToken::read(&path)
        };
        let shown = format!("{:?}", read(" 0123456789abcdef \nrest").expect("a token"));
        assert!(!shown.contains("0123"), "{shown}");
        for text in ["", "\n0123456789abcdef", "0123456789abcde", &"x".repeat(MOST_BYTES + 1)] {
            let error = read(text).expect_err("no token").to_string();
            assert!(error.contains("openssl rand") && !error.contains("0123"), "{error}");
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(PeerToken::read(&path).expect_err("no file").to_string().contains("cannot read"));
    }
}
