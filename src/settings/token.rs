//! The token that this node shows to its log: from a file, which is read for each connection, or as configured.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use durability_tls::open_to_others;
use valkey_module::logging::log_warning;

use crate::settings::configs;

/// Longest token in bytes that the log service takes.
const MAX_TOKEN_BYTES: usize = 1024;
/// Bytes of the file that are read at most: a token and the white space around it.
const MAX_FILE_BYTES: u64 = 4096;
/// Sent if no token is configured: a log service without tokens takes any that is not empty.
const NO_TOKEN: &str = "none";

/// Why there is no token to send: one line that says what to do, and shows nothing of the file.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Both configs are set.
    #[error("durability.auth and durability.auth-file are both set: set one of them to nothing, in one CONFIG SET with the other")]
    Both,
    /// The file cannot be read.
    #[error("cannot read the file of the token, durability.auth-file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("the file of the token, durability.auth-file {}, {reason}: it has to hold the shard's token and nothing else", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// The token to send now. Reads the file, so the main thread calls this only where an operator waits for the answer.
///
/// # Errors
/// Both configs are set, or the file cannot be used.
pub fn current() -> Result<String, TokenError> {
    let (token, file) = (configs::AUTH.value(), configs::AUTH_FILE.value());
    match (token.is_empty(), file.is_empty()) {
        (true, true) => Ok(NO_TOKEN.to_owned()),
        (false, true) => Ok(token),
        (true, false) => read(Path::new(&file)),
        (false, false) => Err(TokenError::Both),
    }
}

/// Checks that the two configs do not contradict each other.
///
/// # Errors
/// They do.
pub fn check() -> Result<(), TokenError> {
    if configs::AUTH.value().is_empty() || configs::AUTH_FILE.value().is_empty() {
        return Ok(());
    }
    Err(TokenError::Both)
}

/// Checks a file for `durability.auth-file`; an empty path names none.
///
/// # Errors
/// Why it cannot be used, for the user to read.
pub fn check_file(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Ok(());
    }
    read(Path::new(path)).map(drop).map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<String, TokenError> {
    let unreadable = |source| TokenError::Read { path: path.to_owned(), source };
    let malformed = |reason| Err(TokenError::Malformed { path: path.to_owned(), reason });
    // To open a pipe that nobody writes to would wait.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return malformed("is not a plain file");
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return malformed("is too long");
    }
    let Ok(text) = String::from_utf8(bytes) else { return malformed("is not text") };
    let mut words = text.split_whitespace();
    let (Some(token), None) = (words.next(), words.next()) else {
        return malformed(if text.trim().is_empty() { "is empty" } else { "holds more than one word" });
    };
    if token.len() > MAX_TOKEN_BYTES {
        return malformed("holds a word of more than 1024 bytes");
    }
    warn_if_open_to_others("the file of the token", path);
    Ok(token.to_owned())
}

/// Warns of a file with a secret that other users of the machine can read or write: once, until its path or its mode changes.
pub fn warn_if_open_to_others(what: &str, path: &Path) {
    static WARNED_OF: Mutex<Vec<(PathBuf, String)>> = Mutex::new(Vec::new());
    // A file that cannot be read is reported by what needs it.
    let warning = open_to_others(path).ok().flatten();
    let mut warned_of = WARNED_OF.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let is_known = warned_of.iter().any(|(file, before)| file == path && warning.as_ref() == Some(before));
    if is_known {
        return;
    }
    warned_of.retain(|(file, _)| file != path);
    if let Some(warning) = warning {
        log_warning(format!("durability: {what} {warning}"));
        warned_of.push((path.to_owned(), warning));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &[u8]) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_holds_one_word_and_white_space() {
        for text in ["token", "token\n", " token \r\n\n"] {
            assert_eq!(read_text(text.as_bytes()), Ok("token".to_owned()), "{text:?}");
        }
        let longest = "x".repeat(MAX_TOKEN_BYTES);
        assert_eq!(read_text(longest.as_bytes()), Ok(longest));
    }

    #[test]
    fn a_file_that_holds_something_else_is_refused_and_not_shown() {
        for (text, why) in [
            (&b""[..], "is empty"),
            (b"\n \n", "is empty"),
            (b"my-secret another", "more than one word"),
            (b"my-secret\xff", "is not text"),
            (&[b'x'; MAX_TOKEN_BYTES + 1], "1024 bytes"),
            (&[b'x'; 1 << 20], "too long"),
        ] {
            let error = read_text(text).expect_err("refused");
            assert!(error.contains(why) && error.contains("durability.auth-file /"), "{error}");
            assert!(!error.contains("my-secret") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn what_is_no_plain_file_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
        assert!(made.success());
        for path in [directory.path(), &pipe, Path::new("/dev/zero")] {
            assert!(read(path).expect_err("refused").to_string().contains("is not a plain file"));
        }
        let error = read(&directory.path().join("missing")).expect_err("refused").to_string();
        assert!(error.contains("cannot read") && error.contains("missing"), "{error}");
    }
}
