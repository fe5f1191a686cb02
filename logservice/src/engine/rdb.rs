//! `valkey-check-rdb`, which is the valkey-server under another name.

use std::path::Path;
use std::process::Stdio;

use durability_protocol::EngineVersion;
use tokio::process::Command;

use super::{confine, EngineError, EngineOptions};
use crate::base::printable::printable;

/// What an RDB records about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RdbFacts {
    /// Version of the server that wrote it.
    pub engine: Option<EngineVersion>,
    /// The replication id and offset of the stream at which it was saved.
    pub position: Option<(String, u64)>,
    /// Types of modules that have saved data besides keys.
    pub module_types: Vec<String>,
}

/// Verifies the RDB at `path` as the engine's `valkey-check-rdb` does.
///
/// # Errors
/// It is not sound, or could not be read.
pub async fn inspect_rdb(options: &EngineOptions, path: &Path) -> Result<RdbFacts, EngineError> {
    let not_started = |source| EngineError::Start { program: options.program.clone(), source };
    let spawned = confine::spawn(options, || {
        let mut command = Command::new(&options.program);
        command.arg0("valkey-check-rdb").arg(path).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    });
    let output = spawned.map_err(not_started)?.child.wait_with_output();
    let limit = options.bounds.time_for(tokio::fs::metadata(path).await.map_or(0, |metadata| metadata.len()));
    let silent = |_| EngineError::Silent { command: "whether the RDB is sound".to_owned(), seconds: limit.as_secs() };
    let output = tokio::time::timeout(limit, output).await.map_err(silent)?.map_err(not_started)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let last: Vec<_> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
        return Err(EngineError::Rdb(printable(&last.into_iter().rev().collect::<Vec<_>>().join("; "))));
    }
    parse(&text).ok_or_else(|| EngineError::Rdb("valkey-check-rdb did not say that it looks OK".to_owned()))
}

fn parse(text: &str) -> Option<RdbFacts> {
    let field = |name: &str| {
        let start = format!("AUX FIELD {name} = '");
        text.lines().find_map(|line| line.split_once(&start)?.1.strip_suffix('\''))
    };
    text.contains("looks OK").then(|| RdbFacts {
        engine: field("valkey-ver").and_then(|version| version.parse().ok()),
        position: field("repl-id")
            .zip(field("repl-offset").and_then(|offset| offset.parse().ok()))
            .map(|(replid, offset)| (replid.to_owned(), offset)),
        module_types: text.lines().filter_map(|line| Some(line.split_once("MODULE AUX for: ")?.1.to_owned())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_checker_prints_is_understood() {
        let text = "[offset 0] Checking RDB file dump.rdb\n[offset 27] AUX FIELD valkey-ver = '9.1.2'\n\
                    [offset 52] AUX FIELD repl-stream-db = '0'\n[offset 100] AUX FIELD repl-id = 'abc'\n\
                    [offset 120] AUX FIELD repl-offset = '1234'\n[offset 140] MODULE AUX for: some-type\n[offset 158] Checksum OK\n\
                    [offset 158] \\o/ RDB looks OK! \\o/\n";
        let facts = parse(text).expect("sound");
        assert_eq!(facts.engine.map(|version| version.to_string()).as_deref(), Some("9.1.2"));
        assert_eq!(facts.position, Some(("abc".to_owned(), 1234)));
        assert_eq!(facts.module_types, ["some-type"]);
        assert_eq!(parse("--- RDB ERROR DETECTED ---\n"), None);
    }
}
