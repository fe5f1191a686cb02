//! Who a connection says it is, and what that allows.

use durability_protocol::{is_valid_name, Code, Refusal};

use crate::tokens::Tokens;

/// What a connection has proved so far.
#[derive(Debug, Default)]
pub struct Identity {
    shard: Option<String>,
    all: bool,
}

impl Identity {
    /// `AUTH shard token`. Without tokens any token is right, and the shard is named.
    pub fn authenticate_shard(&mut self, tokens: Option<&Tokens>, shard: &str, token: &[u8]) -> Result<(), Refusal> {
        if !is_valid_name(shard) {
            return Err(Refusal::new(Code::NoAuth, "the user must be a valid shard name"));
        }
        if tokens.is_some_and(|tokens| !tokens.allow(shard, token)) {
            // Not which shard: somebody may have sent the token in its place, and this line is logged.
            return Err(Refusal::new(Code::NoAuth, "wrong shard or token"));
        }
        self.all = tokens.is_some_and(|tokens| tokens.allow_all(token));
        self.shard = Some(shard.to_owned());
        Ok(())
    }

    /// `AUTH token`: a token for all shards, none of them named.
    pub fn authenticate_all(&mut self, tokens: Option<&Tokens>, token: &[u8]) -> Result<(), Refusal> {
        if tokens.is_some_and(|tokens| !tokens.allow_all(token)) {
            return Err(Refusal::new(Code::NoAuth, "wrong token for all shards; for one shard use AUTH shard token"));
        }
        self.all = true;
        Ok(())
    }

    /// The shard that was named, for commands that do not name one themselves.
    pub fn named_shard(&self) -> Option<&str> {
        self.shard.as_deref()
    }

    /// Whether commands on `shard` are allowed. What was proved by a login stays proved when tokens change.
    pub fn check(&self, needs_token: bool, shard: &str) -> Result<(), Refusal> {
        if self.may_see(needs_token, shard) {
            return Ok(());
        }
        Err(Refusal::new(Code::NoAuth, "log in to the shard first: AUTH shard token"))
    }

    /// Whether the connection has logged in, or need not.
    pub fn is_known(&self, needs_token: bool) -> bool {
        !needs_token || self.all || self.shard.is_some()
    }

    /// Whether `shard` may be shown to this connection.
    pub fn may_see(&self, needs_token: bool, shard: &str) -> bool {
        !needs_token || self.all || self.shard.as_deref() == Some(shard)
    }
}
