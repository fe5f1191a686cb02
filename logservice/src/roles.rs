//! What a token may be used for.

use std::fmt;

/// What a token is for. Who may do what is said of each command where commands are declared (`resp/commands.rs`), and of each
/// endpoint in `http.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Clients, which look for the leader.
    Discover,
    /// Who watches: status and figures.
    Observe,
    /// Replicas: they read the whole log, and add nothing to it.
    Follow,
    /// Operators: what they do from outside. They read no values and write nothing.
    Operate,
    /// Nodes: everything.
    Node,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 5] = [Role::Discover, Role::Observe, Role::Follow, Role::Operate, Role::Node];

    /// As it stands in the tokens file.
    pub fn word(self) -> &'static str {
        match self {
            Role::Discover => "discover",
            Role::Observe => "observe",
            Role::Follow => "follow",
            Role::Operate => "operate",
            Role::Node => "node",
        }
    }

    /// The role of that name.
    pub fn from_word(word: &str) -> Option<Self> {
        Role::ALL.into_iter().find(|role| role.word() == word)
    }

    /// Whether who has this role may do what `needed` is for.
    pub fn includes(self, needed: Role) -> bool {
        match self {
            Role::Discover => needed == Role::Discover,
            Role::Observe => matches!(needed, Role::Discover | Role::Observe),
            Role::Follow => matches!(needed, Role::Discover | Role::Observe | Role::Follow),
            Role::Operate => matches!(needed, Role::Discover | Role::Observe | Role::Operate),
            Role::Node => true,
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Roles that one token has for one shard: one, unless lines of the tokens file for the shard and for all shards name the same token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles(u8);

impl Roles {
    /// Those whose bits are set.
    pub(crate) fn from_bits(bits: u8) -> Self {
        Roles(bits)
    }

    /// A bit for each.
    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// Whether there is none: then there is no such token.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of both.
    pub fn and(self, other: Roles) -> Roles {
        Roles(self.0 | other.0)
    }

    /// Whether one of them includes `needed`.
    pub fn allow(self, needed: Role) -> bool {
        self.iter().any(|role| role.includes(needed))
    }

    fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.0 & role.bit() != 0)
    }
}

impl From<Role> for Roles {
    fn from(role: Role) -> Self {
        Roles(role.bit())
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.iter().map(Role::word).collect();
        f.write_str(&words.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_a_word_of_its_own_and_includes_itself_and_what_clients_need() {
        for role in Role::ALL {
            assert_eq!(Role::from_word(role.word()), Some(role));
            assert!(role.includes(role) && role.includes(Role::Discover) && Role::Node.includes(role));
            assert_eq!(Roles::from(role).to_string(), role.word());
        }
        assert_eq!(Role::from_word("Node"), None);
    }

    #[test]
    fn what_includes_another_includes_all_that_it_includes() {
        for (a, b, c) in
            Role::ALL.into_iter().flat_map(|a| Role::ALL.into_iter().flat_map(move |b| Role::ALL.map(|c| (a, b, c))))
        {
            assert!(!(a.includes(b) && b.includes(c)) || a.includes(c), "{a:?} {b:?} {c:?}");
        }
    }

    #[test]
    fn who_operates_reads_no_data_and_who_follows_changes_nothing() {
        assert!(!Role::Operate.includes(Role::Follow) && !Role::Operate.includes(Role::Node));
        assert!(!Role::Follow.includes(Role::Operate) && !Role::Follow.includes(Role::Node));
        assert!(!Role::Observe.includes(Role::Follow) && !Role::Observe.includes(Role::Operate));
    }

    #[test]
    fn several_roles_allow_what_each_allows() {
        let both = Roles::from(Role::Follow).and(Role::Operate.into());
        assert!(both.allow(Role::Follow) && both.allow(Role::Operate) && !both.allow(Role::Node));
        assert_eq!(both.to_string(), "follow and operate");
        assert!(Roles::default().is_empty() && Role::ALL.into_iter().all(|role| !Roles::default().allow(role)));
    }
}
