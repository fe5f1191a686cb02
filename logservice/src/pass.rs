//! What a token has opened, for as long as the tokens file says so.

use std::sync::Arc;

use durability_protocol::{Code, Refusal};
use tokio::sync::watch;

use crate::roles::Roles;
use crate::tokens::{TokenDigest, Tokens};

/// The tokens as they are now and will be.
pub type TokensWatch = watch::Receiver<Arc<Tokens>>;

/// A login. It is withdrawn when the tokens are read again and its token is not there any more, or has other roles.
#[derive(Debug, Clone)]
pub struct Pass {
    tokens: TokensWatch,
    token: TokenDigest,
    /// The shard that was named with the token.
    shard: Option<String>,
    for_shard: Roles,
    for_all: Roles,
    is_withdrawn: bool,
}

impl Pass {
    /// A login by `token` for a shard, or for all if none is named. `None` if it does not open that.
    pub fn new(mut tokens: TokensWatch, shard: Option<&str>, token: &[u8]) -> Option<Self> {
        let now = tokens.borrow_and_update().clone();
        let token = now.digest(token);
        let (for_shard, for_all) = roles(&now, shard, &token);
        let opens = !if shard.is_some() { for_shard } else { for_all }.is_empty();
        let shard = shard.map(str::to_owned);
        opens.then(|| Pass { tokens, token, shard, for_shard, for_all, is_withdrawn: false })
    }

    /// What it allows on `shard`; none if it does not open it.
    pub fn roles(&self, shard: &str) -> Roles {
        match self.shard.as_deref() == Some(shard) {
            true => self.for_shard,
            false => self.for_all,
        }
    }

    /// What it allows on any shard.
    pub fn roles_for_any(&self) -> Roles {
        self.for_shard.and(self.for_all)
    }

    /// Whether it is withdrawn. As long as tokens are not read again this is one look at a number.
    pub fn is_withdrawn(&mut self) -> bool {
        // An error says that the service ends.
        if self.tokens.has_changed().unwrap_or(false) {
            self.judge();
        }
        self.is_withdrawn
    }

    /// Waits until it is withdrawn. May be dropped and called again.
    pub async fn withdrawn(&mut self) {
        while !self.is_withdrawn() {
            if self.tokens.changed().await.is_err() {
                return std::future::pending().await;
            }
            self.judge();
        }
    }

    fn judge(&mut self) {
        let now = self.tokens.borrow_and_update().clone();
        self.is_withdrawn |= roles(&now, self.shard.as_deref(), &self.token) != (self.for_shard, self.for_all);
    }
}

/// What one is told whose login is withdrawn.
pub fn withdrawn() -> Refusal {
    Refusal::new(Code::NoAuth, "the token of this connection was removed, or has another role now: log in anew")
}

/// What `token` has for the named shard, and for all.
fn roles(tokens: &Tokens, shard: Option<&str>, token: &TokenDigest) -> (Roles, Roles) {
    let for_shard = shard.map_or(Roles::default(), |shard| tokens.roles(shard, token));
    (for_shard, tokens.roles_for_all(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::Role;

    fn tokens(text: &str) -> Arc<Tokens> {
        Arc::new(Tokens::parse(text, [7; 32]).expect("parses"))
    }

    #[test]
    fn a_pass_allows_on_its_shard_and_on_others_what_the_lines_say() {
        let (_sender, watch) = watch::channel(tokens("s1 a follow\n* a discover\ns2 b\n"));
        let pass = Pass::new(watch.clone(), Some("s1"), b"a").expect("opens");
        assert!(pass.roles("s1").allow(Role::Follow) && !pass.roles("s2").allow(Role::Follow));
        assert!(pass.roles("s2").allow(Role::Discover) && pass.roles_for_any().allow(Role::Follow));
        let pass = Pass::new(watch.clone(), None, b"a").expect("opens");
        assert!(!pass.roles("s1").allow(Role::Follow) && pass.roles("s1").allow(Role::Discover));
        assert!(Pass::new(watch.clone(), None, b"b").is_none());
        assert!(Pass::new(watch, Some("s1"), b"b").is_none());
    }

    #[test]
    fn it_is_withdrawn_when_its_token_is_gone_or_has_another_role_and_stays_so() {
        let (sender, watch) = watch::channel(tokens("s1 a\ns2 b\n"));
        let mut pass = Pass::new(watch.clone(), Some("s1"), b"a").expect("opens");
        for (text, is_withdrawn) in
            [("s1 a node\ns2 other\n", false), ("s3 c\ns1 a\n", false), ("s1 a discover\n", true), ("s1 a\n", true)]
        {
            sender.send_replace(tokens(text));
            assert_eq!(pass.is_withdrawn(), is_withdrawn, "{text:?}");
        }
        let mut pass = Pass::new(watch, Some("s1"), b"a").expect("opens");
        sender.send_replace(tokens("s2 a\n"));
        assert!(pass.is_withdrawn());
    }

    #[tokio::test]
    async fn who_waits_is_told_also_of_what_came_before() {
        let (sender, watch) = watch::channel(tokens("s1 a\n"));
        let mut pass = Pass::new(watch.clone(), Some("s1"), b"a").expect("opens");
        sender.send_replace(tokens("s1 b\n"));
        pass.withdrawn().await;
        pass.withdrawn().await;
        let mut pass = Pass::new(watch, Some("s1"), b"b").expect("opens");
        let waiting = tokio::spawn(async move { pass.withdrawn().await });
        sender.send_replace(tokens("s1 b\ns2 c\n"));
        sender.send_replace(tokens("s2 c\n"));
        waiting.await.expect("it ends");
    }
}
