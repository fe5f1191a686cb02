//! A client's login by a token, and its end when the tokens file no longer allows it.

use std::sync::Arc;

use durability_protocol::{Code, Refusal};
use tokio::sync::watch;

use super::roles::TokenRoles;
use super::tokens::{TokenDigest, Tokens};

/// The tokens as they are now, and each later version of them.
pub type TokensWatch = watch::Receiver<Arc<Tokens>>;

/// A login. It is withdrawn when the tokens file is read again and its token is gone or has other roles.
#[derive(Debug, Clone)]
pub struct Login {
    tokens: TokensWatch,
    token: TokenDigest,
    /// The shard that was named with the token.
    shard: Option<String>,
    for_shard: TokenRoles,
    for_all: TokenRoles,
    is_withdrawn: bool,
}

impl Login {
    /// Logs in by `token` to a shard, or to all shards if none is named. `None` if the token does not allow that.
    pub fn new(mut tokens: TokensWatch, shard: Option<&str>, token: &[u8]) -> Option<Self> {
        let now = tokens.borrow_and_update().clone();
        let token = now.digest(token);
        let (for_shard, for_all) = roles(&now, shard, &token);
        let opens = !if shard.is_some() { for_shard } else { for_all }.is_empty();
        let shard = shard.map(str::to_owned);
        opens.then(|| Login { tokens, token, shard, for_shard, for_all, is_withdrawn: false })
    }

    /// The roles that it has on `shard`; none if it is not for that shard.
    pub fn roles(&self, shard: &str) -> TokenRoles {
        match self.shard.as_deref() == Some(shard) {
            true => self.for_shard,
            false => self.for_all,
        }
    }

    /// The roles that it has on some shard.
    pub fn roles_for_any(&self) -> TokenRoles {
        self.for_shard.and(self.for_all)
    }

    /// Whether it is withdrawn. Costs one comparison of a number as long as the tokens file is not read again.
    pub fn is_withdrawn(&mut self) -> bool {
        // An error says that the service ends.
        if self.tokens.has_changed().unwrap_or(false) {
            self.judge();
        }
        self.is_withdrawn
    }

    /// Waits until it is withdrawn. Cancel-safe.
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

/// The answer to a client whose login is withdrawn.
pub fn withdrawn() -> Refusal {
    Refusal::new(Code::NoAuth, "the token of this connection was removed, or has another role now: log in anew")
}

/// The roles of `token` for the named shard, and for all shards.
fn roles(tokens: &Tokens, shard: Option<&str>, token: &TokenDigest) -> (TokenRoles, TokenRoles) {
    let for_shard = shard.map_or(TokenRoles::default(), |shard| tokens.roles(shard, token));
    (for_shard, tokens.roles_for_all(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::roles::TokenRole;

    fn tokens(text: &str) -> Arc<Tokens> {
        Arc::new(Tokens::parse(text, [7; 32]).expect("parses"))
    }

    #[test]
    fn a_pass_allows_on_its_shard_and_on_others_what_the_lines_say() {
        let (_sender, watch) = watch::channel(tokens("s1 a follow\n* a discover\ns2 b\n"));
        let login = Login::new(watch.clone(), Some("s1"), b"a").expect("opens");
        assert!(login.roles("s1").allow(TokenRole::Follow) && !login.roles("s2").allow(TokenRole::Follow));
        assert!(login.roles("s2").allow(TokenRole::Discover) && login.roles_for_any().allow(TokenRole::Follow));
        let login = Login::new(watch.clone(), None, b"a").expect("opens");
        assert!(!login.roles("s1").allow(TokenRole::Follow) && login.roles("s1").allow(TokenRole::Discover));
        assert!(Login::new(watch.clone(), None, b"b").is_none());
        assert!(Login::new(watch, Some("s1"), b"b").is_none());
    }

    #[test]
    fn a_login_is_withdrawn_when_its_token_is_gone_or_has_another_role_and_stays_withdrawn() {
        let (sender, watch) = watch::channel(tokens("s1 a\ns2 b\n"));
        let mut login = Login::new(watch.clone(), Some("s1"), b"a").expect("opens");
        for (text, is_withdrawn) in
            [("s1 a node\ns2 other\n", false), ("s3 c\ns1 a\n", false), ("s1 a discover\n", true), ("s1 a\n", true)]
        {
            sender.send_replace(tokens(text));
            assert_eq!(login.is_withdrawn(), is_withdrawn, "{text:?}");
        }
        let mut login = Login::new(watch, Some("s1"), b"a").expect("opens");
        sender.send_replace(tokens("s2 a\n"));
        assert!(login.is_withdrawn());
    }

    #[tokio::test]
    async fn a_withdrawal_is_noticed_also_if_it_came_before_the_wait() {
        let (sender, watch) = watch::channel(tokens("s1 a\n"));
        let mut login = Login::new(watch.clone(), Some("s1"), b"a").expect("opens");
        sender.send_replace(tokens("s1 b\n"));
        login.withdrawn().await;
        login.withdrawn().await;
        let mut login = Login::new(watch, Some("s1"), b"b").expect("opens");
        let waiting = tokio::spawn(async move { login.withdrawn().await });
        sender.send_replace(tokens("s1 b\ns2 c\n"));
        sender.send_replace(tokens("s2 c\n"));
        waiting.await.expect("it ends");
    }
}
