//! Who a connection says it is, and what that allows.

use std::sync::{Arc, Weak};

use durability_protocol::{is_valid_name, Code, Known, Refusal, ReplicaUser};

use crate::shard::Shard;
use crate::tokens::Tokens;

/// What a connection has proved so far.
#[derive(Debug, Default)]
pub struct Identity {
    shard: Option<String>,
    all: bool,
    /// What a replica knows of the log that it followed.
    follows: Option<Follows>,
    /// The shard of which a node has compared what it knows with the log. Another one may come by the same name.
    checked: Option<(String, Weak<Shard>)>,
}

/// What a replica knows that does not take another log for its own.
#[derive(Debug)]
pub struct Follows {
    /// What it knows.
    pub known: Known,
    /// Whether everything that it holds came from that log.
    pub is_whole: bool,
}

impl Identity {
    /// `AUTH user token`, where the user is a shard, or a [`ReplicaUser`]. Without tokens any token is right, and the shard is named.
    pub fn authenticate_shard(&mut self, tokens: Option<&Tokens>, user: &str, token: &[u8]) -> Result<(), Refusal> {
        let user =
            ReplicaUser::parse(user).map_err(|error| Refusal::new(Code::NoAuth, format!("the user is {error}")))?;
        let ReplicaUser { shard, known, is_whole } = user;
        if !is_valid_name(shard) {
            return Err(Refusal::new(Code::NoAuth, "the user must be a valid shard name"));
        }
        if tokens.is_some_and(|tokens| !tokens.allow(shard, token)) {
            // Not which shard: somebody may have sent the token in its place, and this line is logged.
            return Err(Refusal::new(Code::NoAuth, "wrong shard or token"));
        }
        self.all = tokens.is_some_and(|tokens| tokens.allow_all(token));
        self.shard = Some(shard.to_owned());
        self.follows = known.map(|known| Follows { known, is_whole });
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

    /// What a replica has told with its user name.
    pub fn follows(&self) -> Option<&Follows> {
        self.follows.as_ref()
    }

    /// The node has compared what it knows with the log of `shard`, and found no contradiction.
    pub fn note_checked(&mut self, shard: &Arc<Shard>) {
        self.checked = Some((shard.name().to_owned(), Arc::downgrade(shard)));
    }

    /// Whether it has.
    pub fn has_checked(&self, shard: &Arc<Shard>) -> bool {
        self.checked.as_ref().is_some_and(|(_, checked)| std::ptr::eq(checked.as_ptr(), Arc::as_ptr(shard)))
    }

    /// Whether the node has compared what it knows with any log.
    pub fn has_checked_any(&self) -> bool {
        self.checked.is_some()
    }

    /// Whether the node has compared what it knows with another log that went by the name of `shard`, and is none any more.
    pub fn has_checked_another(&self, shard: &Arc<Shard>) -> bool {
        let checked_name = self.checked.as_ref().map(|(name, _)| name.as_str());
        checked_name == Some(shard.name()) && !self.has_checked(shard)
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
