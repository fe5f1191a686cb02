//! What clients may make the service hold, and for how long. Tests shorten the times.

use std::time::Duration;

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

use crate::lingering::LINGERING_FOR_EACH_PLACE;

/// Files that the service has open besides connections and shards: snapshots, its own, and the segments of a few long logs.
const OTHER_FILES: u64 = 1024;

/// Files that a shard has open: the segments of its log, of which an idle one has one, and those that are made ready.
const FILES_OF_SHARD: u64 = 4;

/// Bounds for clients that are wrong or hostile.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most connections to the RESP port.
    pub max_connections: u32,
    /// The most connections to the RESP port that have not logged in. Beside the others.
    pub max_strangers: u32,
    /// The most requests to the HTTP port that a token allows, at a time.
    pub max_http_connections: u32,
    /// The most shards.
    pub max_shards: usize,
    /// Memory in MiB for commands that have not arrived as a whole.
    pub max_input_mb: u32,
    /// Log in MiB that is kept for a replica alone, unless the snapshot is larger; 0: without a bound.
    pub max_pinned_mb: u64,
    /// For how long.
    pub patience: Patience,
}

/// Times that have no flag: they are beyond what a right client needs.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long a connection may stay without having logged in, where tokens are needed.
    pub login: Duration,
    /// How long an answer to a wrong token takes.
    pub failed_login_delay: Duration,
    /// After so many wrong tokens a connection is closed.
    pub max_failed_logins: u32,
    /// How long a command may take from its first byte to its last. Does not count while nothing is read.
    pub command: Duration,
    /// How long a client may take nothing of what it is owed. A replica that loads a snapshot says so meanwhile, which counts.
    pub stalled_output: Duration,
    /// After so long without a command, a connection's input buffer is given back.
    pub idle_buffer: Duration,
    /// How long the head of an HTTP request may take, and how long a connection may wait for the next one.
    pub http_head: Duration,
    /// How long an upload, or a client that is being answered, may make no progress. An uploading node passes on what its server
    /// sends, and gives that a minute to begin.
    pub http_stalled: Duration,
    /// As many bytes of an upload have to come while it is waited for, within that time.
    pub upload_bytes: u64,
    /// A replica that was sent a snapshot and only says that it is there is waited for longer: a second more for so many bytes
    /// of the snapshot.
    pub load_bytes_per_s: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            login: Duration::from_secs(10),
            failed_login_delay: Duration::from_secs(1),
            max_failed_logins: 3,
            command: Duration::from_secs(30),
            stalled_output: Duration::from_secs(60),
            idle_buffer: Duration::from_secs(1),
            http_head: Duration::from_secs(10),
            http_stalled: Duration::from_secs(90),
            upload_bytes: 1 << 20,
            load_bytes_per_s: 4 << 20,
        }
    }
}

/// The operating system does not let the process have as many files open as connections may need.
#[derive(Debug, thiserror::Error)]
#[error("{needed} open files are needed for --max-connections, --max-strangers and --max-http-connections, and {allowed} are allowed: raise the limit (ulimit -n, LimitNOFILE) or allow fewer")]
pub struct OpenFilesError {
    needed: u64,
    allowed: u64,
}

/// For each stranger of the HTTP port there may be so many of the RESP port: whoever looks for the leader comes there.
const HTTP_STRANGERS: u32 = 4;
/// Of ten connections one is kept for nodes.
const NODES_SHARE: u32 = 10;
/// So many at least are kept for nodes: a node has up to five, and a shard some nodes.
const LEAST_FOR_NODES: u32 = 16;

impl Limits {
    /// How many of the connections to the RESP port are kept for nodes: a tenth, and at least 16, but no more than half.
    pub fn kept_for_nodes(&self) -> u32 {
        (self.max_connections / NODES_SHARE).max(LEAST_FOR_NODES).min(self.max_connections / 2)
    }

    /// The most connections to the HTTP port without a request that a token allows. Beside the others.
    pub fn max_http_strangers(&self) -> u32 {
        (self.max_strangers / HTTP_STRANGERS).max(1)
    }

    fn strangers(&self) -> u64 {
        u64::from(self.max_strangers) + u64::from(self.max_http_strangers())
    }

    /// Open files without which it cannot do what it was told, shards aside.
    fn needed_files(&self) -> u64 {
        u64::from(self.max_connections) + u64::from(self.max_http_connections) + self.strangers() + OTHER_FILES
    }

    /// How many connections that have lost their place may linger on a port with places for so many strangers: as many as the open files that
    /// nothing needs allow, of which each stranger takes one more for its second handle. Ask after [`Limits::raise_open_files`].
    pub fn lingering(&self, strangers: u32) -> usize {
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        self.lingering_of(strangers, allowed)
    }

    fn lingering_of(&self, strangers: u32, allowed: u64) -> usize {
        let spare = u128::from(allowed.saturating_sub(self.needed_files()));
        let of_port = spare * u128::from(strangers) / u128::from(self.strangers());
        let most = u128::from(strangers) * u128::from(LINGERING_FOR_EACH_PLACE);
        of_port.saturating_sub(u128::from(strangers)).min(most) as usize
    }

    /// Lets this process have as many files open as it may, and checks that they suffice. Answers what to warn of if they do not for
    /// as many shards as there may be: few services have that many.
    ///
    /// # Errors
    /// They do not suffice for connections.
    pub fn raise_open_files(&self) -> Result<Option<String>, OpenFilesError> {
        let of_shards = FILES_OF_SHARD.saturating_mul(self.max_shards as u64);
        let needed = self.needed_files();
        let with_shards = needed.saturating_add(of_shards);
        let limit = getrlimit(Resource::Nofile);
        // Nothing here counts through descriptors, so a high limit costs nothing.
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let _ = setrlimit(Resource::Nofile, raised);
        match getrlimit(Resource::Nofile).current {
            Some(allowed) if allowed < needed => Err(OpenFilesError { needed, allowed }),
            Some(allowed) if allowed < with_shards => Ok(Some(format!(
                "{with_shards} open files may be needed, {of_shards} of them for --max-shards {}, and {allowed} are allowed: raise the \
                 limit (ulimit -n, LimitNOFILE) before there are that many shards",
                self.max_shards
            ))),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            max_connections: 1,
            max_strangers: 1,
            max_http_connections: 1,
            max_shards: 1,
            max_input_mb: 4,
            max_pinned_mb: 0,
            patience: Patience::default(),
        }
    }

    /// Else a seed that the node still waits for is cut off here, and is begun anew for ever.
    #[test]
    fn an_upload_may_stand_still_for_longer_than_its_node_waits_for_its_server() {
        const FULL_SYNC_TIMEOUT: Duration = Duration::from_secs(60);
        assert!(Patience::default().http_stalled > FULL_SYNC_TIMEOUT);
    }

    #[test]
    fn a_share_of_the_connections_is_kept_for_nodes_and_clients_have_the_most() {
        let kept = |max_connections| Limits { max_connections, ..limits() }.kept_for_nodes();
        assert_eq!([1, 2, 31, 50, 160, 1000, 10_000].map(kept), [0, 1, 15, 16, 16, 100, 1000]);
    }

    #[test]
    fn more_connections_than_files_are_refused_with_both_numbers() {
        let mut limits =
            Limits { max_connections: 1_000_000, max_http_connections: u32::MAX, max_shards: 10, ..limits() };
        let text = limits.raise_open_files().expect_err("too many").to_string();
        assert!(text.contains("4295968321 open files are needed"), "{text}");
        limits.max_connections = 1;
        limits.max_http_connections = 1;
        if let Some(allowed) = getrlimit(Resource::Nofile).maximum {
            limits.max_shards = allowed as usize;
            let warning = limits.raise_open_files().expect("starts").expect("a warning");
            assert!(warning.contains(&format!("{} open files may be needed", 1028 + 4 * allowed)), "{warning}");
        }
        limits.max_shards = 10;
        if getrlimit(Resource::Nofile).maximum.is_none_or(|most| most >= 1068) {
            assert_eq!(limits.raise_open_files().expect("starts"), None);
        }
    }
}
