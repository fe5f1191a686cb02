//! Every config of the module, declared once: its name, default, bounds and checks, and what it means to an operator.

use std::time::Duration;

use crate::settings::checks::{check_announce, check_node_id, check_services, check_shard, check_zone, DEFAULT_LOG};
use crate::settings::config_kinds::{anything, Change, Choice, Config, Number, Switch, Text};
use crate::settings::mode::Mode;
use crate::settings::{tls, token};

const DAY_MS: i64 = 86_400_000;

/// Declares configs. The comment above each says what it means to an operator.
macro_rules! configs {
    ($($(#[doc = $meaning:literal])+ $name:ident: $kind:ident = $config:expr;)+) => {
        $($(#[doc = $meaning])+ pub static $name: $kind = $config;)+

        /// All configs, in the order in which error messages name them.
        pub static CONFIGS: &[Config] = &[$(Config::$kind(&$name)),+];
    };
}

configs! {
    /// host:port of the log service, or of each of those that replicate the log among them, separated by commas.
    LOG: Text = Text::changed_by("log", DEFAULT_LOG, check_services, Change::Restart);
    /// The name of this node's shard in the log service.
    SHARD: Text = Text::changed_by("shard", "default", check_shard, Change::Restart);
    /// The name of this node among those of its shard. Empty: host name and port.
    NODE_ID: Text = Text::changed_by("node-id", "", check_node_id, Change::Restart);
    /// The shard's token. [`token`] alone reads it: the token may be in [`AUTH_FILE`] instead.
    AUTH: Text = Text::secret("auth");
    /// A file that holds the shard's token, and is read for each connection.
    AUTH_FILE: Text = Text::changed_by("auth-file", "", anything, Change::Checked(token::check_file));
    /// Whether connections to the log use TLS. This and the other configs of TLS apply to the next connection.
    TLS: Switch = Switch::new("tls");
    /// File of the CAs that the log's certificate may be of.
    TLS_CA: Text = Text::new("tls-ca", "", tls::check_ca);
    /// File of the revocation lists of those CAs. Empty: nothing counts as revoked.
    TLS_CRL: Text = Text::new("tls-crl", "", tls::check_crl);
    /// File of the certificate that this node shows to the log.
    TLS_CERT: Text = Text::new("tls-cert", "", tls::check_certificate);
    /// File of the key of that certificate.
    TLS_KEY: Text = Text::new("tls-key", "", tls::check_key);
    /// How durable an answered write is: sync, async or off.
    MODE: Choice = Choice::new("mode", Mode::Sync);
    /// Whether sync mode and leases may be used in a version of Valkey that this release was not tried with. See `docs/versions.md`.
    ALLOW_UNTESTED_VERSION: Switch = Switch::fixed("allow-untested-version");
    /// Writes are refused when the oldest one that the log has not acknowledged is this old, in milliseconds.
    MAX_LAG_MS: Number = Number::new("max-lag-ms", 10_000, 100..=DAY_MS);
    /// Writes are refused when the log has not acknowledged this many bytes.
    MAX_PENDING_BYTES: Number = Number::bytes("max-pending-bytes", 1 << 30, 1 << 20..=i64::MAX);
    /// Whether async mode slows writers down to the log's pace before writes have to be refused.
    THROTTLE: Switch = Switch::with_default("throttle", true);
    /// When replies that wait for the log take this many bytes of the module's memory, the clients with most of them are closed.
    MAX_HELD_BYTES: Number = Number::bytes("max-held-bytes", 256 << 20, 1 << 20..=i64::MAX);
    /// A client whose reply has waited for the log for this many milliseconds is closed. 0: never.
    SYNC_TIMEOUT_MS: Number = Number::new("sync-timeout-ms", 0, 0..=DAY_MS);
    /// Whether REPLICAOF and FAILOVER work, by which a node leaves its log.
    ALLOW_REPLICAOF: Switch = Switch::new("allow-replicaof");
    /// Whether WAITAOF counts the log among the replicas that have everything on disk.
    COUNT_IN_WAITAOF: Switch = Switch::new("count-in-waitaof");
    /// Whether the lease of this node expires when it is not renewed, so that another node takes over.
    FAILOVER: Switch = Switch::needing_lease("failover");
    /// How long a lease lasts, in milliseconds. At the least, three renewals fit in, each there and back.
    LEASE_MS: Number = Number::new("lease-ms", 3000, 300..=600_000);
    /// Among the nodes that can take over, the one with the highest priority does. 0: never this node.
    PRIORITY: Number = Number::new("priority", 100, 0..=1000);
    /// The zone that this node is in: while it leads, the log service of that zone decides over the log, if there is one and all is well.
    ZONE: Text = Text::new("zone", "", check_zone);
    /// host:port at which clients reach this node. Empty: host name and port.
    ANNOUNCE: Text = Text::new("announce", "", check_announce);
}

/// The lease that this node asks for; zero if it does not expire. Any thread.
pub fn lease() -> Duration {
    if FAILOVER.is_on() {
        Duration::from_millis(LEASE_MS.value())
    } else {
        Duration::ZERO
    }
}

/// [`PRIORITY`] as it is told to the log service. Any thread.
pub fn priority() -> u32 {
    u32::try_from(PRIORITY.value()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_those_of_valkey_conf() {
        let names: HashSet<_> = CONFIGS.iter().map(|config| config.name()).collect();
        assert_eq!(names.len(), CONFIGS.len(), "a name is given twice");
        let is_plain = |name: &&str| name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-');
        assert!(names.iter().all(is_plain), "{names:?}");
    }

    #[test]
    fn a_default_is_a_valid_value() {
        for config in CONFIGS {
            let default = match config {
                Config::Number(number) => number.default.to_string(),
                Config::Text(text) => text.default.to_owned(),
                Config::Switch(switch) => if switch.default { "yes" } else { "no" }.to_owned(),
                Config::Choice(choice) => choice.default.name().to_owned(),
            };
            assert_eq!(config.check(&default), Ok(()), "{}", config.name());
        }
    }

    #[test]
    fn numbers_keep_within_their_bounds() {
        for config in CONFIGS {
            if let Config::Number(number) = config {
                for outside in [number.least - 1, number.most.wrapping_add(1)] {
                    assert!(config.check(&outside.to_string()).is_err(), "{} {outside}", number.name);
                }
                assert_eq!(number.parse(&number.least.to_string()), Ok(number.least));
                assert_eq!(number.parse(&number.most.to_string()), Ok(number.most));
            }
        }
    }
}
