//! Every number and time that bounds a client. Tests shorten the times.

use std::time::Duration;

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

use super::lingering::LINGERING_FOR_EACH_PLACE;

/// Files that the service opens besides connections and shards: snapshots, its own files, and the segments of a few long logs.
const OTHER_FILES: u64 = 1024;

/// Files that a shard opens: the segments of its log, of which an idle shard has one, and spare ones.
const FILES_OF_SHARD: u64 = 4;

/// Bounds for faulty or hostile clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most connections to the RESP port.
    pub max_connections: u32,
    /// The most connections to the RESP port that have not logged in, in addition to the others.
    pub max_strangers: u32,
    /// The most requests with a token to the HTTP port at a time.
    pub max_http_connections: u32,
    /// The most shards.
    pub max_shards: usize,
    /// Memory in MiB for commands that have not arrived as a whole.
    pub max_input_mb: u32,
    /// Log in MiB that is kept for a replica alone, unless the snapshot is larger; 0: without a bound.
    pub max_pinned_mb: u64,
    /// How long clients are waited for.
    pub patience: Patience,
}

/// Times that have no flag, as they exceed what any correct client needs.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long a connection may stay without having logged in, where tokens are needed.
    pub login: Duration,
    /// How long the answer to a wrong token is delayed.
    pub failed_login_delay: Duration,
    /// Wrong tokens after which a connection is closed.
    pub max_failed_logins: u32,
    /// How long a command may take from its first byte to its last. Time in which the service does not read does not count.
    pub command: Duration,
    /// How long a client may take nothing of its replies. A replica that loads a snapshot reports that it is alive, which counts.
    pub stalled_output: Duration,
    /// Time without a command after which a connection's input buffer is freed.
    pub idle_buffer: Duration,
    /// How long the head of an HTTP request may take, and how long a connection may wait for the next one.
    pub http_head: Duration,
    /// How long an upload, or a client that is being answered, may make no progress. A node uploads what its server sends, and gives the
    /// server a minute to begin.
    pub http_stalled: Duration,
    /// How many bytes of an upload have to arrive in `http_stalled` of waiting.
    pub upload_bytes: u64,
    /// A replica that loads a snapshot and only reports that it is alive is waited for longer: one more second for so many bytes of the
    /// snapshot.
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

/// The operating system does not let the process open as many files as connections may need.
#[derive(Debug, thiserror::Error)]
#[error("{needed} open files are needed for --max-connections, --max-strangers and --max-http-connections, and {allowed} are allowed: raise the limit (ulimit -n, LimitNOFILE) or allow fewer")]
pub struct OpenFilesError {
    needed: u64,
    allowed: u64,
}

/// For each stranger at the HTTP port there may be so many at the RESP port, where clients look up the leader.
const HTTP_STRANGERS: u32 = 4;
/// One of so many connections is kept for nodes.
const NODES_SHARE: u32 = 10;
/// Connections that are kept for nodes at least: a node has up to five, and a shard a few nodes.
const LEAST_FOR_NODES: u32 = 16;

impl Limits {
    /// How many of the connections to the RESP port are kept for nodes: a tenth, and at least 16, but no more than half.
    pub fn kept_for_nodes(&self) -> u32 {
        (self.max_connections / NODES_SHARE).max(LEAST_FOR_NODES).min(self.max_connections / 2)
    }

    /// The most connections to the HTTP port without a request that a token allows, in addition to the others.
    pub fn max_http_strangers(&self) -> u32 {
        (self.max_strangers / HTTP_STRANGERS).max(1)
    }

    fn strangers(&self) -> u64 {
        u64::from(self.max_strangers) + u64::from(self.max_http_strangers())
    }

    /// Open files without which the service cannot do what its flags promise, shards aside.
    fn needed_files(&self) -> u64 {
        u64::from(self.max_connections) + u64::from(self.max_http_connections) + self.strangers() + OTHER_FILES
    }

    /// How many connections that have lost their place may linger on a port with places for so many strangers: as many as the open files
    /// that nothing needs allow. Each stranger takes one of these as well, for its second handle. Call it after
    /// [`Limits::raise_open_files`].
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

    /// Raises the process's limit of open files to the most that is allowed, and checks that it suffices. Returns a warning if it suffices
    /// for connections but not for as many shards as are allowed, which few services ever have.
    ///
    /// # Errors
    /// It does not suffice for connections.
    pub fn raise_open_files(&self) -> Result<Option<String>, OpenFilesError> {
        let of_shards = FILES_OF_SHARD.saturating_mul(self.max_shards as u64);
        let needed = self.needed_files();
        let with_shards = needed.saturating_add(of_shards);
        let limit = getrlimit(Resource::Nofile);
        // Nothing here iterates over descriptors, so a high limit costs nothing.
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

    /// Otherwise the service would cut off an upload that its node still waits for, again and again.
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
