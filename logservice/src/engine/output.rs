//! The log of an engine, from which errors take their reason.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::base::printable::printable;

/// Lines that are kept for an error.
const KEPT_LINES: usize = 8;
/// The most of a line that is taken at once. What follows counts as another line.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// Begins the message that it answered its primary with an error.
const REFUSED: &str = "== CRITICAL == ";
/// Begins the message that it got no more memory.
const OUT_OF_MEMORY: &str = "Out Of Memory allocating ";
/// The system's message that something is not permitted.
const NOT_PERMITTED: &str = "Permission denied";
/// A possible reason for that.
const NO_CAPABILITIES: &str = " (it reads only what the user may whom this service runs as, also if that is root: make the files that user's, or \
                               give --engine-isolation off)";
/// Begins the line of its last report with the offset that it had applied.
const APPLIED: &str = "slave_repl_offset:";

/// What an engine wrote, without control characters, as what it writes may come from the log and so from an attacker.
#[derive(Debug, Default)]
pub struct EngineOutput(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    last: VecDeque<String>,
    /// What it could not apply. Kept apart, as the report of its end, which follows, is long.
    refused: Option<String>,
    /// What it got no memory for, in its words.
    out_of_memory: Option<String>,
    /// Offset up to which it had applied the log then (exclusive).
    applied: Option<u64>,
}

impl EngineOutput {
    /// Reads `stream` until it ends.
    pub async fn read(&self, stream: impl AsyncRead + Unpin) {
        let mut stream = BufReader::new(stream);
        let mut bytes = Vec::new();
        while let Ok(1..) = (&mut stream).take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes).await {
            // It may be any bytes.
            let line = printable(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']));
            tracing::debug!("valkey-server: {line}");
            self.lock().add(line);
            bytes.clear();
        }
    }

    /// Whether a line with `text` is among the last.
    pub fn has(&self, text: &str) -> bool {
        self.lock().last.iter().any(|line| line.contains(text))
    }

    /// The last warning before the line with `text`.
    pub fn last_warning_before(&self, text: &str) -> Option<String> {
        let kept = self.lock();
        let warnings = kept.last.iter().filter(|line| !line.contains(text));
        warnings.rev().find_map(|line| Some(line.split_once(" # ")?.1.to_owned()))
    }

    /// Why it ended, as far as its log tells. `memory_bytes` is what it was allowed.
    pub fn reason(&self, memory_bytes: Option<u64>) -> String {
        let kept = self.lock();
        if let Some(refused) = &kept.refused {
            let place = kept.applied.map_or_else(String::new, |applied| format!(" at offset {applied}"));
            return format!(
                "it cannot apply the log{place}: {refused} (a module that the data needs? --valkey-conf names a file with loadmodule)"
            );
        }
        if let Some(out_of_memory) = &kept.out_of_memory {
            let allowed = memory_bytes.map_or_else(String::new, |bytes| {
                format!(" (it may have {} MiB: --engine-memory-mb allows more)", bytes >> 20)
            });
            return format!("{OUT_OF_MEMORY}{out_of_memory}{allowed}");
        }
        let last: Vec<_> = kept.last.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
        let hint = if last.iter().any(|line| line.contains(NOT_PERMITTED)) { NO_CAPABILITIES } else { "" };
        format!("{}{hint}", last.join("; "))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Kept {
    fn add(&mut self, line: String) {
        if let Some((_, refused)) = line.split_once(REFUSED) {
            self.refused.get_or_insert_with(|| refused.trim().to_owned());
        }
        if let Some((_, out_of_memory)) = line.split_once(OUT_OF_MEMORY) {
            self.out_of_memory.get_or_insert_with(|| out_of_memory.trim().to_owned());
        }
        if let (true, Some(applied)) = (self.refused.is_some(), line.trim().strip_prefix(APPLIED)) {
            self.applied = applied.parse().ok().or(self.applied);
        }
        if self.last.len() == KEPT_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(text: &str) -> EngineOutput {
        let output = EngineOutput::default();
        output.read(text.as_bytes()).await;
        output
    }

    #[tokio::test]
    async fn refused_commands_are_reported_with_their_offset_and_without_control_characters() {
        let output =
            said("1:S 01 # == CRITICAL == 'ERR no such \u{1b}[31mkey' after 'rename'\nslave_repl_offset:77\nmore\n")
                .await;
        let reason = output.reason(None);
        assert!(
            reason.starts_with(r"it cannot apply the log at offset 77: 'ERR no such \u{1b}[31mkey' after 'rename'"),
            "{reason}"
        );
    }

    #[tokio::test]
    async fn invalid_text_and_endless_lines_do_not_hide_the_rest() {
        let output = EngineOutput::default();
        let long = vec![b'x'; 3 * MAX_LINE_BYTES as usize];
        let said = [b"no text: \xff\xfe\n", &long[..], b"\n1:M # the reason\n"].concat();
        output.read(&said[..]).await;
        assert!(output.has("no text: ") && output.has("the reason"), "{}", output.reason(None));
        assert!(output.lock().last.iter().all(|line| line.len() as u64 <= MAX_LINE_BYTES));
    }

    #[tokio::test]
    async fn a_missing_permission_is_reported_with_a_remedy() {
        let reason = said("Can't chdir to '/data': Permission denied\n").await.reason(None);
        assert!(reason.contains("Permission denied") && reason.contains("--engine-isolation off"), "{reason}");
        assert!(!said("it ended\n").await.reason(None).contains("--engine-isolation"));
    }

    #[tokio::test]
    async fn a_lack_of_memory_names_the_flag() {
        let output = said("1:M # Out Of Memory allocating 1099511627776 bytes!\n=== REPORT ===\n").await;
        assert_eq!(
            output.reason(Some(64 << 20)),
            "Out Of Memory allocating 1099511627776 bytes! (it may have 64 MiB: --engine-memory-mb allows more)"
        );
    }
}
