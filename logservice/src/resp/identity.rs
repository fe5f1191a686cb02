//! What the client of a connection has proved, and what that allows.

use std::sync::{Arc, Weak};

use durability_protocol::{is_valid_name, Code, Known, Refusal, ReplicaUser};

use super::command_roles::Entry;
use crate::access::login::{Login, TokensWatch};
use crate::access::roles::{TokenRole, TokenRoles};
use crate::shard::Shard;

/// What a client has proved so far.
#[derive(Debug)]
pub struct Identity {
    /// `None` if none are needed: then every client may do everything.
    tokens: Option<TokensWatch>,
    /// The login, where tokens are needed.
    login: Option<Box<Login>>,
    shard: Option<String>,
    /// What a replica has reported of the log that it followed.
    follows: Option<Follows>,
    /// The shard whose log a node has compared with what it knows. Another shard may get the same name later.
    checked: Option<(String, Weak<Shard>)>,
}

/// What a replica reports so that it is not given another log than its own.
#[derive(Debug)]
pub struct Follows {
    /// What it knows.
    pub known: Known,
    /// Whether everything that it holds came from that log.
    pub is_whole: bool,
}

impl Identity {
    /// A client that has proved nothing. Without tokens nothing has to be proved.
    pub fn new(tokens: Option<TokensWatch>) -> Self {
        Identity { tokens, login: None, shard: None, follows: None, checked: None }
    }

    /// `AUTH user token`, where the user is a shard or a [`ReplicaUser`]. Without tokens any token is right, and only the shard is noted.
    /// Replaces what was proved before.
    pub fn authenticate_shard(&mut self, user: &str, token: &[u8]) -> Result<(), Refusal> {
        let user =
            ReplicaUser::parse(user).map_err(|error| Refusal::new(Code::NoAuth, format!("the user is {error}")))?;
        let ReplicaUser { shard, known, is_whole } = user;
        if !is_valid_name(shard) {
            return Err(Refusal::new(Code::NoAuth, "the user must be a valid shard name"));
        }
        // The error is logged, so it does not show the user: a client may have sent the token in its place.
        self.log_in(Some(shard), token, "wrong shard or token")?;
        self.follows = known.map(|known| Follows { known, is_whole });
        Ok(())
    }

    /// `AUTH token`: a token for all shards, without naming one. Replaces what was proved before.
    pub fn authenticate_all(&mut self, token: &[u8]) -> Result<(), Refusal> {
        self.log_in(None, token, "wrong token for all shards; for one shard use AUTH shard token")?;
        self.follows = None;
        Ok(())
    }

    fn log_in(&mut self, shard: Option<&str>, token: &[u8], wrong: &str) -> Result<(), Refusal> {
        if let Some(tokens) = &self.tokens {
            let login = Login::new(tokens.clone(), shard, token);
            self.login = Some(Box::new(login.ok_or_else(|| Refusal::new(Code::NoAuth, wrong))?));
        }
        self.shard = shard.map(str::to_owned);
        Ok(())
    }

    /// What a replica has reported with its user name.
    pub fn follows(&self) -> Option<&Follows> {
        self.follows.as_ref()
    }

    /// Records that the node has compared what it knows with the log of `shard`, and found no contradiction.
    pub fn note_checked(&mut self, shard: &Arc<Shard>) {
        self.checked = Some((shard.name().to_owned(), Arc::downgrade(shard)));
    }

    /// Whether the node has compared what it knows with the log of `shard`.
    pub fn has_checked(&self, shard: &Arc<Shard>) -> bool {
        self.checked.as_ref().is_some_and(|(_, checked)| std::ptr::eq(checked.as_ptr(), Arc::as_ptr(shard)))
    }

    /// Whether the node has compared what it knows with any log.
    pub fn has_checked_any(&self) -> bool {
        self.checked.is_some()
    }

    /// Whether the node has compared what it knows with an earlier shard of the same name, which was dropped.
    pub fn has_checked_another(&self, shard: &Arc<Shard>) -> bool {
        let checked_name = self.checked.as_ref().map(|(name, _)| name.as_str());
        checked_name == Some(shard.name()) && !self.has_checked(shard)
    }

    /// The shard that was named, for commands that do not name one themselves.
    pub fn named_shard(&self) -> Option<&str> {
        self.shard.as_deref()
    }

    /// Whether the client has logged in or need not.
    pub fn is_known(&self) -> bool {
        self.tokens.is_none() || self.login.is_some()
    }

    /// Checks that `command` is allowed on some shard.
    ///
    /// # Errors
    /// [`Code::NoPerm`] if it is not.
    pub fn check_any(&self, command: &Entry) -> Result<(), Refusal> {
        self.login.as_ref().map_or(Ok(()), |login| command.check(login.roles_for_any()))
    }

    /// Checks that `command` is allowed on `shard`.
    ///
    /// # Errors
    /// [`Code::NoAuth`] if the login is not for that shard, [`Code::NoPerm`] if its role does not allow the command.
    pub fn check(&self, command: &Entry, shard: &str) -> Result<(), Refusal> {
        if self.tokens.is_none() {
            return Ok(());
        }
        match self.login.as_ref().map(|login| login.roles(shard)) {
            Some(roles) if !roles.is_empty() => command.check(roles),
            _ => Err(Refusal::new(Code::NoAuth, "log in to the shard first: AUTH shard token")),
        }
    }

    /// Whether the client may do on `shard` what `role` may.
    pub fn may(&self, shard: &str, role: TokenRole) -> bool {
        self.tokens.is_none() || self.login.as_ref().is_some_and(|login| login.roles(shard).allow(role))
    }

    /// Whether the client may take a place that is kept for nodes, replicas and operators: its login has a role of these on some shard.
    pub fn may_have_kept_place(&self) -> bool {
        let is_for = |roles: TokenRoles| {
            [TokenRole::Follow, TokenRole::Operate, TokenRole::Node].into_iter().any(|role| roles.allow(role))
        };
        self.login.as_ref().map_or(self.tokens.is_none(), |login| is_for(login.roles_for_any()))
    }

    /// Whether the login is withdrawn: its token is gone or has another role.
    pub fn is_withdrawn(&mut self) -> bool {
        self.login.as_mut().is_some_and(|login| login.is_withdrawn())
    }

    /// Waits until the login is withdrawn; for ever if there is none. Cancel-safe.
    pub async fn withdrawn(&mut self) {
        match &mut self.login {
            Some(login) => login.withdrawn().await,
            None => std::future::pending().await,
        }
    }
}
