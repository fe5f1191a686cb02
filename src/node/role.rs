//! What a node is to its shard.

/// What this node is to its shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Nothing: the module is off.
    Off,
    /// On its way to lead: connecting to the log, catching up, or waiting for another leader's lease.
    Attaching,
    /// Another node leads: this one follows the log, and serves reads.
    Follower,
    /// It leads: its writes go to the log.
    Leader,
    /// It leads, unless another node has taken over: its lease has passed, because the log does not answer.
    Suspended,
    /// The operator made it a replica of another server: it has no log until it is a primary again.
    Replica,
    /// It cannot serve until an operator acts, for that reason.
    Refused(String),
}

impl Role {
    /// The word that `DURABILITY.STATUS` shows.
    pub fn name(&self) -> &'static str {
        match self {
            Role::Off => "off",
            Role::Attaching => "attaching",
            Role::Follower => "follower",
            Role::Suspended => "suspended",
            Role::Leader => "leader",
            Role::Replica => "replica",
            Role::Refused(_) => "refused",
        }
    }

    /// Whether the node leads, as far as it knows.
    pub fn leads(&self) -> bool {
        matches!(self, Role::Leader | Role::Suspended)
    }

    /// Whether the node serves its clients without a log.
    pub fn has_no_log(&self) -> bool {
        matches!(self, Role::Off | Role::Replica)
    }

    /// Whether the server may be a replica of the log.
    pub fn may_follow(&self) -> bool {
        matches!(self, Role::Attaching | Role::Follower | Role::Refused(_))
    }

    /// Whether the log has confirmed what the node holds, or nothing is to be confirmed.
    pub fn is_confirmed(&self) -> bool {
        !matches!(self, Role::Attaching | Role::Refused(_) | Role::Suspended)
    }
}
