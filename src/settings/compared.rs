//! Which settings of the server the log service compares among the nodes of a shard.

/// The configs whose difference clients notice when another node leads: what is evicted or refused, who may connect and run what, what is
/// announced, and how durable an answer is. `docs/failover.md` lists them. Not here is what is a node's own by its nature (addresses, files,
/// threads, priority and zone), what only changes how fast or in how much memory the same is done, and what the log replaces (RDB and AOF).
pub const COMPARED: [&str; 25] = [
    "maxmemory",
    "maxmemory-policy",
    "maxmemory-clients",
    "databases",
    "maxclients",
    "timeout",
    "client-output-buffer-limit",
    "client-query-buffer-limit",
    "proto-max-bulk-len",
    "notify-keyspace-events",
    "busy-reply-threshold",
    "acl-pubsub-default",
    "protected-mode",
    "tls-auth-clients",
    "enable-debug-command",
    "enable-module-command",
    "durability.mode",
    "durability.failover",
    "durability.lease-ms",
    "durability.max-lag-ms",
    "durability.max-pending-bytes",
    "durability.max-held-bytes",
    "durability.throttle",
    "durability.sync-timeout-ms",
    "durability.count-in-waitaof",
];

#[cfg(test)]
mod tests {
    use durability_protocol::NodeSettings;

    use super::*;

    #[test]
    fn all_are_documented_and_can_be_told() {
        let docs = include_str!("../../docs/failover.md");
        let mut told = NodeSettings::default();
        for name in COMPARED {
            assert!(docs.contains(&format!("`{name}`")), "{name}");
            told.add(name, "normal 0 0 0 replica 268435456 67108864 60 pubsub 33554432 8388608 60");
        }
        let read = NodeSettings::parse(&told.text()).expect("settings");
        assert_eq!(read, told, "there is room for all");
        let own: Vec<_> = COMPARED.iter().filter_map(|name| name.strip_prefix("durability.")).collect();
        let known = crate::settings::configs::CONFIGS;
        assert!(own.iter().all(|name| known.iter().any(|config| config.name() == *name)), "{own:?}");
    }
}
