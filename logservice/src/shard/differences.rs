//! In what the nodes of a shard differ, of what is each node's own: users and settings. It shows to clients only when another node leads, so
//! it is told before. Plain logic.

use std::collections::BTreeSet;

use durability_protocol::NodeSettings;
use serde::Serialize;

use super::nodes::NodeStatus;

/// What a node has otherwise than another one, usually the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What it is: the name of a config, or `acl` or `modules`.
    pub setting: String,
    /// Its value at the node; empty if it is not to be told.
    pub value: String,
    /// The node that it was compared with.
    pub other_node: String,
    /// The value there; empty if it is not to be told.
    pub other_value: String,
}

impl Difference {
    /// What a node with the settings `own` has otherwise than `other_node`.
    pub fn between(own: &NodeSettings, other_node: &str, other: &NodeSettings) -> Vec<Difference> {
        let difference = |it: durability_protocol::SettingDifference<'_>| Difference {
            setting: it.name.to_owned(),
            value: NodeSettings::shown(it.value).to_owned(),
            other_node: other_node.to_owned(),
            other_value: NodeSettings::shown(it.other).to_owned(),
        };
        own.differences(other).map(difference).collect()
    }

    /// For people: `maxmemory (100, n1 has 0)`.
    pub fn text(&self) -> String {
        let Difference { setting, value, other_node, other_value } = self;
        match (value.as_str(), other_value.as_str()) {
            ("", "") => setting.clone(),
            (own, other) => {
                let told =
                    |value: &str| if value.is_empty() { "another value".to_owned() } else { format!("'{value}'") };
                format!("{setting} ({}, {other_node} has {})", told(own), told(other))
            }
        }
    }
}

/// The names of what any of the nodes has otherwise, with commas between them; empty if they are alike.
pub fn names(nodes: &[NodeStatus]) -> String {
    let names: BTreeSet<&str> = nodes.iter().flat_map(|node| &node.differences).map(|it| it.setting.as_str()).collect();
    Vec::from_iter(names).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> NodeSettings {
        NodeSettings::parse(text).expect("settings")
    }

    #[test]
    fn a_difference_is_told_with_both_values_unless_they_are_digests() {
        let (own, other) = (settings("acl=#12,maxmemory=100,timeout="), settings("acl=#34,maxmemory=0,timeout=5"));
        let texts: Vec<_> = Difference::between(&own, "n1", &other).iter().map(Difference::text).collect();
        assert_eq!(texts, ["acl", "maxmemory ('100', n1 has '0')", "timeout (another value, n1 has '5')"]);
    }
}
