//! What this server lets the module do. The main thread finds it out, and hands it to the agent at its start.

/// What the agent needs of the server and may not call by itself.
#[derive(Clone)]
pub struct ServerSupport {
    /// Why sync mode is impossible in this server, judged without trying; `None` if it may work. Does not change while the process runs.
    pub why_no_sync: Option<String>,
    /// Tells the server's read path that one of the module's own connections comes from that TCP port, before it sends anything. Any thread.
    pub expect_own_port: fn(u16),
    /// Whether the place of a command's arguments in the server's clients is known. Any thread.
    pub knows_clients: fn() -> bool,
    /// Whether the server is a node of a cluster. Does not change while the process runs.
    pub is_cluster: bool,
}

impl ServerSupport {
    /// As [`why_leases_are_not_kept`].
    pub fn why_leases_are_not_kept(&self, self_test: Option<&Result<(), String>>) -> Option<String> {
        why_leases_are_not_kept(self.why_no_sync.as_deref(), self_test)
    }
}

/// Why a leader in this server cannot be kept from answering once its lease has passed; `None` if it can. It takes what sync mode takes.
/// `why_no_sync` says why that is missing, and `self_test` is the self-test's result; `None` if it has not run. Any thread.
pub fn why_leases_are_not_kept(why_no_sync: Option<&str>, self_test: Option<&Result<(), String>>) -> Option<String> {
    let failed = self_test.and_then(|result| result.as_ref().err()).map(String::as_str);
    why_no_sync.or(failed).map(|why| {
        format!("durability.failover yes keeps a leader whose lease has passed from answering as sync mode does: {why}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_hold_replies_keeps_no_lease_and_says_why() {
        assert_eq!(why_leases_are_not_kept(None, None), None);
        assert_eq!(why_leases_are_not_kept(None, Some(&Ok(()))), None);
        let failed = Err("a reply left".to_owned());
        assert!(why_leases_are_not_kept(None, Some(&failed)).is_some_and(|why| why.ends_with("a reply left")));
        let why = why_leases_are_not_kept(Some("another version"), Some(&failed));
        assert!(why.is_some_and(|why| why.ends_with("another version")), "what is known without trying comes first");
    }
}
