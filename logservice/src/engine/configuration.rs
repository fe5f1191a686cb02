//! The configuration of an engine. The engine reads it from its standard input, so that it is in no file and in no list of processes.

use std::path::Path;

use super::names::Names;
use super::{EngineError, EngineOptions};

/// Databases for a log whose number of databases is unknown: as many as a leader may reasonably be configured with.
const DATABASES: u32 = 16_384;

/// The configuration of an engine that listens on `socket`, saves to `file`, and hides commands by `names`, for a log that was written with so
/// many databases.
pub fn configuration(
    options: &EngineOptions,
    socket: &Path,
    file: &Path,
    databases: Option<u32>,
    names: &Names,
) -> Result<String, EngineError> {
    let quoted = |path: &Path| -> Result<String, EngineError> {
        let text = path.to_str().filter(|text| !text.contains(['"', '\\', '\n', '\r']));
        let text = text.ok_or_else(|| EngineError::System {
            action: "cannot use a path with quotes, backslashes or other than UTF-8 text",
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, path.display().to_string()),
        })?;
        Ok(format!("\"{text}\""))
    };
    let mut out = String::new();
    if let Some(config) = &options.config {
        out += &format!("include {}\n", quoted(config)?);
    }
    let (directory, name) = (file.parent().unwrap_or(Path::new(".")), Path::new(file.file_name().unwrap_or_default()));
    out += &format!(
        "port 0\ntls-port 0\nunixsocket {}\nunixsocketperm 700\ndir {}\ndbfilename {}\n",
        quoted(socket)?,
        quoted(directory)?,
        quoted(name)?
    );
    // It holds all that the leader holds, whatever that takes, and saves nothing by itself.
    let databases = databases.unwrap_or(0).max(DATABASES);
    out +=
        &format!("databases {databases}\nmaxmemory 0\nproto-max-bulk-len 4096gb\nclient-query-buffer-limit 4096gb\n");
    out +=
        "save \"\"\nappendonly no\nrdbcompression yes\nrdbchecksum yes\nreplica-read-only yes\nrepl-backlog-size 1mb\n";
    // With some modules, what it is fed is written to a file first, which is useless once it is loaded.
    out += "repl-diskless-load swapdb\nrdb-del-sync-files yes\nenable-debug-command local\ndaemonize no\nsupervised no\nlogfile \"\"\nloglevel notice\n";
    // By default a replica skips what it cannot apply. This one has to end.
    out += "propagation-error-behavior panic\n";
    // Nothing expires by itself, whether it follows a feed or not.
    out += "import-mode yes\n";
    out += "latency-tracking no\nactivedefrag no\nio-threads 1\ncluster-enabled no\ntls-replication no\n";
    out += &names.configuration();
    Ok(out)
}
