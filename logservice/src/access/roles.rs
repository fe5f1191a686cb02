//! The roles of tokens, and what each may do.

use std::fmt;

use durability_protocol::{Code, Refusal};

/// What a token is for. The role that a command needs is declared with the command (`resp/command_roles.rs`), that of an HTTP endpoint in
/// `http/endpoints.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRole {
    /// For clients, which look up the leader.
    Discover,
    /// For monitoring: status and figures.
    Observe,
    /// For replicas, which read the whole log and add nothing to it.
    Follow,
    /// For operators, who administer shards. They read no values and write nothing.
    Operate,
    /// For nodes, which may do everything.
    Node,
}

impl TokenRole {
    /// All roles.
    pub const ALL: [TokenRole; 5] =
        [TokenRole::Discover, TokenRole::Observe, TokenRole::Follow, TokenRole::Operate, TokenRole::Node];

    /// Its word in the tokens file.
    pub fn word(self) -> &'static str {
        match self {
            TokenRole::Discover => "discover",
            TokenRole::Observe => "observe",
            TokenRole::Follow => "follow",
            TokenRole::Operate => "operate",
            TokenRole::Node => "node",
        }
    }

    /// The role of that name.
    pub fn from_word(word: &str) -> Option<Self> {
        TokenRole::ALL.into_iter().find(|role| role.word() == word)
    }

    /// Whether this role may do what `needed` may.
    pub fn includes(self, needed: TokenRole) -> bool {
        match self {
            TokenRole::Discover => needed == TokenRole::Discover,
            TokenRole::Observe => matches!(needed, TokenRole::Discover | TokenRole::Observe),
            TokenRole::Follow => matches!(needed, TokenRole::Discover | TokenRole::Observe | TokenRole::Follow),
            TokenRole::Operate => matches!(needed, TokenRole::Discover | TokenRole::Observe | TokenRole::Operate),
            TokenRole::Node => true,
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The roles of one token for one shard. There is more than one if the tokens file names the token both for the shard and for all shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenRoles(u8);

impl TokenRoles {
    /// The roles whose bits are set.
    pub(crate) fn from_bits(bits: u8) -> Self {
        TokenRoles(bits)
    }

    /// One bit per role.
    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// Whether there is none: then there is no such token.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The roles of both.
    pub fn and(self, other: TokenRoles) -> TokenRoles {
        TokenRoles(self.0 | other.0)
    }

    /// Whether one of them includes `needed`.
    pub fn allow(self, needed: TokenRole) -> bool {
        self.iter().any(|role| role.includes(needed))
    }

    fn iter(self) -> impl Iterator<Item = TokenRole> {
        TokenRole::ALL.into_iter().filter(move |role| self.0 & role.bit() != 0)
    }
}

impl From<TokenRole> for TokenRoles {
    fn from(role: TokenRole) -> Self {
        TokenRoles(role.bit())
    }
}

impl fmt::Display for TokenRoles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.iter().map(TokenRole::word).collect();
        f.write_str(&words.join(" and "))
    }
}

/// Who may send a command or a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every client, also before a login.
    Anyone,
    /// Clients that have logged in with a token of this role, or of one that includes it.
    Needs(TokenRole),
}

/// Refuses `what`, which needs `role`, to a token that has `roles`.
pub fn no_permission(what: &str, role: TokenRole, roles: TokenRoles) -> Refusal {
    let (needed, includes_all) = (role.word(), TokenRole::Node.word());
    let or_node = if role == TokenRole::Node { String::new() } else { format!(" (or {includes_all})") };
    Refusal::new(
        Code::NoPerm,
        format!("{what} needs a token with the role {needed}{or_node}, and this one's is {roles}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_a_word_of_its_own_and_includes_itself_and_what_clients_need() {
        for role in TokenRole::ALL {
            assert_eq!(TokenRole::from_word(role.word()), Some(role));
            assert!(role.includes(role) && role.includes(TokenRole::Discover) && TokenRole::Node.includes(role));
            assert_eq!(TokenRoles::from(role).to_string(), role.word());
        }
        assert_eq!(TokenRole::from_word("Node"), None);
    }

    #[test]
    fn inclusion_of_roles_is_transitive() {
        for (a, b, c) in TokenRole::ALL
            .into_iter()
            .flat_map(|a| TokenRole::ALL.into_iter().flat_map(move |b| TokenRole::ALL.map(|c| (a, b, c))))
        {
            assert!(!(a.includes(b) && b.includes(c)) || a.includes(c), "{a:?} {b:?} {c:?}");
        }
    }

    #[test]
    fn operators_read_no_data_and_followers_change_nothing() {
        assert!(!TokenRole::Operate.includes(TokenRole::Follow) && !TokenRole::Operate.includes(TokenRole::Node));
        assert!(!TokenRole::Follow.includes(TokenRole::Operate) && !TokenRole::Follow.includes(TokenRole::Node));
        assert!(!TokenRole::Observe.includes(TokenRole::Follow) && !TokenRole::Observe.includes(TokenRole::Operate));
    }

    #[test]
    fn several_roles_allow_what_each_allows() {
        let both = TokenRoles::from(TokenRole::Follow).and(TokenRole::Operate.into());
        assert!(both.allow(TokenRole::Follow) && both.allow(TokenRole::Operate) && !both.allow(TokenRole::Node));
        assert_eq!(both.to_string(), "follow and operate");
        assert!(
            TokenRoles::default().is_empty()
                && TokenRole::ALL.into_iter().all(|role| !TokenRoles::default().allow(role))
        );
    }
}
