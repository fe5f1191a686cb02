//! Nodes as Sentinel shows them: every field that `addReplySentinelValkeyInstance` of Valkey 9.1 writes, as clients read these names and
//! filter by these flags.

use super::address::Address;
use crate::replica::groups::ServiceStatus;
use crate::resp::reply::{bulk, Reply};
use crate::shard::{NodeStatus, Primary, Role, Roles};

/// A node that has been silent for longer counts as down.
const DOWN_AFTER_MS: u64 = 3000;

/// A shard whose primary has an address to which clients can connect.
pub struct Monitored<'a> {
    roles: &'a Roles,
    /// Address of its primary.
    pub address: Address<'a>,
}

impl<'a> Monitored<'a> {
    /// `None` if no client could connect to the primary.
    pub fn new(roles: &'a Roles) -> Option<Self> {
        Some(Monitored { roles, address: Address::parse(&roles.primary.address)? })
    }

    /// The shard's name, which is the primary's name.
    pub fn name(&self) -> &'a str {
        &self.roles.shard
    }

    /// Whether nobody leads at the moment.
    pub fn is_down(&self) -> bool {
        !self.roles.primary.leads
    }

    /// The nodes besides the primary, with their addresses.
    pub fn replicas(&self) -> impl Iterator<Item = (&'a NodeStatus, Address<'a>)> + '_ {
        let Primary { node_id, address, .. } = &self.roles.primary;
        let others = self.roles.nodes.iter().filter(move |node| node.id != *node_id && node.address != *address);
        others.filter_map(|node| Some((node, Address::parse(&node.address)?)))
    }

    /// The primary with all its fields. There are so many `other_sentinels`.
    pub fn show(&self, other_sentinels: usize) -> Reply {
        let primary = &self.roles.primary;
        let node = self.roles.nodes.iter().find(|node| node.id == primary.node_id);
        let role = node.map_or(Role::Leader, |node| node.role);
        let mut fields = Fields::default();
        fields.add("name", self.name());
        fields.add_place(self.address, &primary.node_id);
        fields.add("flags", if self.is_down() { "s_down,o_down,master" } else { "master" });
        fields.add_link(node);
        if self.is_down() {
            let down_ms = node.map_or(0, |node| node.silent_ms);
            fields.add("s-down-time", down_ms);
            fields.add("o-down-time", down_ms);
        }
        fields.add_report(node, if role == Role::Leader { "master" } else { "slave" });
        fields.add("config-epoch", primary.epoch);
        fields.add("num-slaves", self.replicas().count());
        fields.add("num-other-sentinels", other_sentinels);
        fields.add("quorum", other_sentinels.div_ceil(2) + 1);
        fields.add("failover-timeout", DOWN_AFTER_MS);
        fields.add("parallel-syncs", 1);
        Reply::Map(fields.0)
    }

    /// The other nodes with all their fields.
    pub fn show_replicas(&self) -> Reply {
        Reply::Array(self.replicas().map(|(node, address)| self.show_replica(node, address)).collect())
    }

    fn show_replica(&self, node: &NodeStatus, address: Address<'_>) -> Reply {
        // A node that attaches, or has not noticed yet that it no longer leads, would not answer reads.
        let is_up = node.role == Role::Follower && node.silent_ms <= DOWN_AFTER_MS;
        let mut fields = Fields::default();
        fields.add("name", address);
        fields.add_place(address, &node.id);
        fields.add("flags", if is_up { "slave" } else { "s_down,slave" });
        fields.add_link(Some(node));
        if !is_up {
            fields.add("s-down-time", node.silent_ms);
        }
        fields.add_report(Some(node), if node.role == Role::Leader { "master" } else { "slave" });
        fields.add("master-link-down-time", if is_up { 0 } else { node.silent_ms });
        fields.add("master-link-status", if is_up { "ok" } else { "err" });
        fields.add("master-host", self.address.host);
        fields.add("master-port", self.address.port);
        // As the node reports it. Here the highest priority is preferred, with Sentinel the lowest. 0 means never in both.
        fields.add("slave-priority", node.priority);
        fields.add("slave-repl-offset", node.applied);
        fields.add("replica-announced", 1);
        Reply::Map(fields.0)
    }
}

/// Another service as a Sentinel with all its fields; none if no client can connect to it.
pub fn sentinel(service: &ServiceStatus) -> Option<Reply> {
    let address = Address::parse(&service.address)?;
    let mut fields = Fields::default();
    fields.add("name", &service.name);
    fields.add_place(address, &format!("{:040x}", service.member));
    fields.add("flags", if service.is_connected { "sentinel" } else { "s_down,sentinel,disconnected" });
    fields.add_link(None);
    fields.add("down-after-milliseconds", DOWN_AFTER_MS);
    fields.add("last-hello-message", 0);
    fields.add("voted-leader", "?");
    fields.add("voted-leader-epoch", 0);
    Some(Reply::Map(fields.0))
}

/// Names and values.
#[derive(Default)]
struct Fields(Vec<(Reply, Reply)>);

impl Fields {
    fn add(&mut self, name: &'static str, value: impl std::fmt::Display) {
        self.0.push((bulk(name), bulk(value.to_string())));
    }

    fn add_place(&mut self, address: Address<'_>, node_id: &str) {
        self.add("ip", address.host);
        self.add("port", address.port);
        self.add("runid", node_id);
    }

    fn add_link(&mut self, node: Option<&NodeStatus>) {
        let contact_ms = node.map_or(0, |node| node.contact_ms);
        self.add("link-pending-commands", 0);
        self.add("link-refcount", 1);
        self.add("last-ping-sent", 0);
        self.add("last-ok-ping-reply", contact_ms);
        self.add("last-ping-reply", contact_ms);
    }

    fn add_report(&mut self, node: Option<&NodeStatus>, role: &'static str) {
        let contact_ms = node.map_or(0, |node| node.contact_ms);
        self.add("down-after-milliseconds", DOWN_AFTER_MS);
        self.add("info-refresh", contact_ms);
        self.add("role-reported", role);
        self.add("role-reported-time", contact_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, address: &str, role: Role, silent_ms: u64) -> NodeStatus {
        let (id, address) = (id.to_owned(), address.to_owned());
        let (priority, applied, lag_bytes, lag_ms, contact_ms) = (100, 7, 0, 0, silent_ms);
        let (zone, figures) = (String::new(), None);
        NodeStatus {
            id,
            address,
            role,
            priority,
            applied,
            lag_bytes,
            lag_ms,
            contact_ms,
            silent_ms,
            zone,
            figures,
            differences: Vec::new(),
        }
    }

    fn roles(nodes: Vec<NodeStatus>) -> Roles {
        let primary = Primary { node_id: "n1".into(), address: "a:1".into(), epoch: 3, leads: true };
        Roles { shard: "s1".into(), primary, nodes }
    }

    fn fields(reply: Reply) -> Vec<(Reply, Reply)> {
        match reply {
            Reply::Map(fields) => fields,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_replica_is_offered_if_it_follows_and_was_heard_of_in_time() {
        let up = (Role::Follower, DOWN_AFTER_MS, "slave");
        for (role, silent_ms, flags) in [
            up,
            (Role::Follower, DOWN_AFTER_MS + 1, "s_down,slave"),
            (Role::Attaching, 0, "s_down,slave"),
            (Role::Leader, 0, "s_down,slave"),
        ] {
            let roles = roles(vec![node("n2", "b:2", role, silent_ms)]);
            let Reply::Array(mut shown) = Monitored::new(&roles).expect("an address").show_replicas() else {
                panic!("no array")
            };
            let shown = fields(shown.remove(0));
            assert!(shown.contains(&(bulk("flags"), bulk(flags))), "{role:?} {silent_ms}: {shown:?}");
            let has_time = shown.iter().any(|(name, _)| *name == bulk("s-down-time"));
            assert_eq!(has_time, flags != "slave");
        }
    }

    #[test]
    fn the_primary_is_not_among_its_replicas_under_any_name() {
        let nodes = vec![
            node("n1", "elsewhere:1", Role::Leader, 0),
            node("n1-as-it-was-called-before", "a:1", Role::Follower, 0),
            node("n3", "no address", Role::Follower, 0),
            node("n2", "b:2", Role::Follower, 0),
        ];
        let roles = roles(nodes);
        let monitored = Monitored::new(&roles).expect("an address");
        assert_eq!(monitored.replicas().map(|(node, _)| node.id.as_str()).collect::<Vec<_>>(), ["n2"]);
        assert!(fields(monitored.show(0)).contains(&(bulk("num-slaves"), bulk("1"))));
    }
}
