//! Who a connection says it is, and what that allows.

use std::sync::{Arc, Weak};

use durability_protocol::{is_valid_name, Code, Known, Refusal, ReplicaUser};

use super::commands::Entry;
use crate::pass::{Pass, TokensWatch};
use crate::roles::{Role, Roles};
use crate::shard::Shard;

/// What a connection has proved so far.
#[derive(Debug)]
pub struct Identity {
    /// `None` if none are needed: then everybody may do everything.
    tokens: Option<TokensWatch>,
    /// The login, where tokens are needed.
    pass: Option<Box<Pass>>,
    shard: Option<String>,
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
    /// Nothing. Without tokens nothing has to be proved.
    pub fn new(tokens: Option<TokensWatch>) -> Self {
        Identity { tokens, pass: None, shard: None, follows: None, checked: None }
    }

    /// `AUTH user token`, where the user is a shard, or a [`ReplicaUser`]. Without tokens any token is right, and the shard is named.
    /// It takes the place of what was proved before.
    pub fn authenticate_shard(&mut self, user: &str, token: &[u8]) -> Result<(), Refusal> {
        let user =
            ReplicaUser::parse(user).map_err(|error| Refusal::new(Code::NoAuth, format!("the user is {error}")))?;
        let ReplicaUser { shard, known, is_whole } = user;
        if !is_valid_name(shard) {
            return Err(Refusal::new(Code::NoAuth, "the user must be a valid shard name"));
        }
        // Not which shard: somebody may have sent the token in its place, and this line is logged.
        self.log_in(Some(shard), token, "wrong shard or token")?;
        self.follows = known.map(|known| Follows { known, is_whole });
        Ok(())
    }

    /// `AUTH token`: a token for all shards, none of them named. It takes the place of what was proved before.
    pub fn authenticate_all(&mut self, token: &[u8]) -> Result<(), Refusal> {
        self.log_in(None, token, "wrong token for all shards; for one shard use AUTH shard token")?;
        self.follows = None;
        Ok(())
    }

    fn log_in(&mut self, shard: Option<&str>, token: &[u8], wrong: &str) -> Result<(), Refusal> {
        if let Some(tokens) = &self.tokens {
            let pass = Pass::new(tokens.clone(), shard, token);
            self.pass = Some(Box::new(pass.ok_or_else(|| Refusal::new(Code::NoAuth, wrong))?));
        }
        self.shard = shard.map(str::to_owned);
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

    /// Whether the connection has logged in, or need not.
    pub fn is_known(&self) -> bool {
        self.tokens.is_none() || self.pass.is_some()
    }

    /// Whether `command` is allowed, on any shard at least.
    ///
    /// # Errors
    /// [`Code::NoPerm`] if it is not.
    pub fn check_any(&self, command: &Entry) -> Result<(), Refusal> {
        self.pass.as_ref().map_or(Ok(()), |pass| command.check(pass.roles_for_any()))
    }

    /// Whether `command` is allowed on `shard`.
    ///
    /// # Errors
    /// [`Code::NoAuth`] if the login is not for that shard, [`Code::NoPerm`] if its role does not allow the command.
    pub fn check(&self, command: &Entry, shard: &str) -> Result<(), Refusal> {
        if self.tokens.is_none() {
            return Ok(());
        }
        match self.pass.as_ref().map(|pass| pass.roles(shard)) {
            Some(roles) if !roles.is_empty() => command.check(roles),
            _ => Err(Refusal::new(Code::NoAuth, "log in to the shard first: AUTH shard token")),
        }
    }

    /// Whether this connection may do on `shard`, or see of it, what `role` is for.
    pub fn may(&self, shard: &str, role: Role) -> bool {
        self.tokens.is_none() || self.pass.as_ref().is_some_and(|pass| pass.roles(shard).allow(role))
    }

    /// Whether it may take one of the places that are kept for nodes, for replicas and for operators: the login allows what one of these
    /// does, on any shard.
    pub fn may_have_kept_place(&self) -> bool {
        let is_for = |roles: Roles| [Role::Follow, Role::Operate, Role::Node].into_iter().any(|role| roles.allow(role));
        self.pass.as_ref().map_or(self.tokens.is_none(), |pass| is_for(pass.roles_for_any()))
    }

    /// Whether the login is withdrawn: its token is not there any more, or has another role.
    pub fn is_withdrawn(&mut self) -> bool {
        self.pass.as_mut().is_some_and(|pass| pass.is_withdrawn())
    }

    /// Waits until the login is withdrawn; for ever if there is none. May be dropped and called again.
    pub async fn withdrawn(&mut self) {
        match &mut self.pass {
            Some(pass) => pass.withdrawn().await,
            None => std::future::pending().await,
        }
    }
}
