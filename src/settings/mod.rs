//! The module's configuration: `durability.*` in valkey.conf and `CONFIG GET|SET`.

pub mod tls;
pub mod token;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use std::sync::Mutex;

use durability_protocol::{is_valid_address, is_valid_name, MAX_NAME_BYTES};
use valkey_module::configuration::{ConfigurationContext, ConfigurationValue, EnumConfigurationValue};
use valkey_module::{ValkeyError, ValkeyString};

use crate::node;
use crate::server::config_apply::ConfigCheck;

/// How durable an answered write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// A reply leaves only when the log has acknowledged what it depends on.
    Sync,
    /// Replies leave at once; writes are refused when the log is too far behind.
    Async,
    /// As without the module.
    Off,
}

impl Mode {
    const ALL: [Mode; 3] = [Mode::Sync, Mode::Async, Mode::Off];

    /// As in valkey.conf.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Sync => "sync",
            Mode::Async => "async",
            Mode::Off => "off",
        }
    }
}

impl TryFrom<i32> for Mode {
    type Error = ValkeyError;

    fn try_from(value: i32) -> Result<Self, ValkeyError> {
        Mode::ALL.into_iter().find(|mode| *mode as i32 == value).ok_or(ValkeyError::Str("no such mode"))
    }
}

impl From<Mode> for i32 {
    fn from(mode: Mode) -> i32 {
        mode as i32
    }
}

impl EnumConfigurationValue for Mode {
    fn get_options(&self) -> (Vec<String>, Vec<i32>) {
        Mode::ALL.into_iter().map(|mode| (mode.name().to_owned(), mode as i32)).unzip()
    }
}

/// `durability.mode`.
pub struct ModeValue(AtomicU8);

impl ModeValue {
    /// The mode that is configured.
    pub fn mode(&self) -> Mode {
        let value = self.0.load(Ordering::Relaxed);
        Mode::ALL.into_iter().find(|mode| *mode as u8 == value).unwrap_or(Mode::Sync)
    }
}

impl ConfigurationValue<Mode> for ModeValue {
    fn get(&self, _: &ConfigurationContext) -> Mode {
        self.mode()
    }

    fn set(&self, _: &ConfigurationContext, mode: Mode) -> Result<(), ValkeyError> {
        node::change_mode(mode).map_err(ValkeyError::String)?;
        self.0.store(mode as u8, Ordering::Relaxed);
        Ok(())
    }
}

/// A string that is checked when it is set.
pub struct Text {
    value: Mutex<String>,
    check: fn(&str) -> Result<(), String>,
    /// It names the node's log. In a running server it can only be set to what it is.
    is_fixed: bool,
}

impl Text {
    const fn new(check: fn(&str) -> Result<(), String>) -> Self {
        Text { value: Mutex::new(String::new()), check, is_fixed: false }
    }

    const fn fixed(check: fn(&str) -> Result<(), String>) -> Self {
        Text { value: Mutex::new(String::new()), check, is_fixed: true }
    }

    /// The value as it is now.
    pub fn value(&self) -> String {
        self.value.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl ConfigurationValue<ValkeyString> for Text {
    fn get(&self, _: &ConfigurationContext) -> ValkeyString {
        ValkeyString::create(None, self.value().as_str())
    }

    fn set(&self, _: &ConfigurationContext, value: ValkeyString) -> Result<(), ValkeyError> {
        let value = value.try_as_str()?;
        (self.check)(value).map_err(ValkeyError::String)?;
        if self.is_fixed && node::with(|_| ()).is_some() && self.value() != value {
            return Err(ValkeyError::Str("a running server cannot change its log: set it in valkey.conf and restart"));
        }
        value.clone_into(&mut self.value.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        Ok(())
    }
}

/// `durability.tls`: whether the log is connected to by TLS. Judged together with the files: see [`CONNECTION_CHECK`].
pub struct TlsSwitch(AtomicBool);

impl TlsSwitch {
    /// Whether it is.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ConfigurationValue<bool> for TlsSwitch {
    fn get(&self, _: &ConfigurationContext) -> bool {
        self.is_on()
    }

    fn set(&self, _: &ConfigurationContext, is_on: bool) -> Result<(), ValkeyError> {
        self.0.store(is_on, Ordering::Relaxed);
        Ok(())
    }
}

/// `durability.failover`: whether the lease of this node expires when it is not renewed, so that another one takes over.
pub struct FailoverSwitch(AtomicBool);

impl FailoverSwitch {
    /// Whether it does.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ConfigurationValue<bool> for FailoverSwitch {
    fn get(&self, _: &ConfigurationContext) -> bool {
        self.is_on()
    }

    fn set(&self, _: &ConfigurationContext, is_on: bool) -> Result<(), ValkeyError> {
        // A node that starts decides when it knows all of its configuration.
        let why_not = node::with(|module| node::why_leases_are_not_kept(module.self_test.as_ref())).flatten();
        if let (true, Some(why)) = (is_on, why_not) {
            return Err(ValkeyError::String(why));
        }
        self.0.store(is_on, Ordering::Relaxed);
        Ok(())
    }
}

/// What belongs together may be set one by one, in any order, within one `CONFIG SET`; together it has to be what the next connection can
/// use.
pub const CONNECTION_CHECK: ConfigCheck =
    ConfigCheck { concerns: |name| name.starts_with("tls") || name.starts_with("auth"), check: check_connection };

fn check_connection() -> Result<(), String> {
    check_tls()?;
    // While the server starts, one may not be known yet: then it is checked when both are.
    if node::with(|_| ()).is_none() {
        return Ok(());
    }
    token::check().map_err(|error| error.to_string())
}

/// A server that starts may come before its file does, and waits for it.
fn check_auth_file(path: &str) -> Result<(), String> {
    if node::with(|_| ()).is_none() {
        return Ok(());
    }
    token::check_file(path).map_err(|error| error.to_string())
}

fn check_tls() -> Result<(), String> {
    // While the server starts, some are not known yet: then it is checked when all are.
    if !TLS.is_on() || node::with(|_| ()).is_none() {
        return Ok(());
    }
    tls::check().map_err(|error| error.to_string())
}

/// `durability.mode`: sync, async or off.
pub static MODE: ModeValue = ModeValue(AtomicU8::new(Mode::Sync as u8));
/// `durability.log`: host:port of the log service.
pub static LOG: Text = Text::fixed(check_address);
/// `durability.shard`: the name of this node's shard in the log service.
pub static SHARD: Text = Text::fixed(check_shard);
/// `durability.node-id`: the name of this node among those of its shard. Empty: host name and port.
pub static NODE_ID: Text = Text::fixed(check_node_id);
/// `durability.auth`: the shard's token. Not for others than [`token`]: it may be in [`AUTH_FILE`].
pub static AUTH: Text = Text::new(|_| Ok(()));
/// `durability.auth-file`: a file that holds it instead, which is read for each connection.
pub static AUTH_FILE: Text = Text::new(check_auth_file);
/// `durability.tls`: whether the log is connected to by TLS. This and the following hold for the next connection.
pub static TLS: TlsSwitch = TlsSwitch(AtomicBool::new(false));
/// `durability.tls-ca`: file of the CAs that the log's certificate may be of.
pub static TLS_CA: Text = Text::new(tls::check_ca);
/// `durability.tls-crl`: file of the revocation lists of those CAs; empty: nothing counts as revoked.
pub static TLS_CRL: Text = Text::new(tls::check_crl);
/// `durability.tls-cert`: file of the certificate that this node shows to the log.
pub static TLS_CERT: Text = Text::new(tls::check_certificate);
/// `durability.tls-key`: file of that certificate's key.
pub static TLS_KEY: Text = Text::new(tls::check_key);
/// `durability.max-lag-ms`: at this lag writes are refused.
pub static MAX_LAG_MS: AtomicI64 = AtomicI64::new(DEFAULT_MAX_LAG_MS);
/// `durability.max-pending-bytes`: when so many bytes are written and not acknowledged, writes are refused.
pub static MAX_PENDING_BYTES: AtomicI64 = AtomicI64::new(DEFAULT_MAX_PENDING_BYTES);
/// `durability.max-held-bytes`: when so many bytes of replies that wait for the log are in the module's memory, the clients with most
/// of them are closed.
pub static MAX_HELD_BYTES: AtomicI64 = AtomicI64::new(DEFAULT_MAX_HELD_BYTES);
/// `durability.sync-timeout-ms`: a client whose reply waits for the log for so long is closed; 0: never.
pub static SYNC_TIMEOUT_MS: AtomicI64 = AtomicI64::new(0);
/// `durability.allow-replicaof`: whether REPLICAOF and FAILOVER work, with which a node leaves its log.
pub static ALLOW_REPLICAOF: AtomicBool = AtomicBool::new(false);
/// `durability.failover`: whether the lease of this node expires when it is not renewed, so that another one takes over.
pub static FAILOVER: FailoverSwitch = FailoverSwitch(AtomicBool::new(false));
/// `durability.lease-ms`: how long a lease lasts.
pub static LEASE_MS: AtomicI64 = AtomicI64::new(DEFAULT_LEASE_MS);
/// `durability.priority`: among nodes that can take over, the highest does; 0: never this one.
pub static PRIORITY: AtomicI64 = AtomicI64::new(DEFAULT_PRIORITY);
/// `durability.announce`: host:port at which clients reach this node. Empty: host name and port.
pub static ANNOUNCE: Text = Text::new(check_announce);
/// `durability.count-in-waitaof`: whether WAITAOF counts the log among the replicas that have everything on disk.
pub static COUNT_IN_WAITAOF: AtomicBool = AtomicBool::new(false);

/// Default of [`LEASE_MS`].
pub const DEFAULT_LEASE_MS: i64 = 3000;
/// Least value of [`LEASE_MS`]: three renewals, each there and back, have to fit in.
pub const LEAST_LEASE_MS: i64 = 300;
/// Largest value of [`LEASE_MS`]: ten minutes.
pub const MOST_LEASE_MS: i64 = 600_000;
/// Default of [`PRIORITY`].
pub const DEFAULT_PRIORITY: i64 = 100;
/// Largest value of [`PRIORITY`].
pub const MOST_PRIORITY: i64 = 1000;
/// Default of [`LOG`].
pub const DEFAULT_LOG: &str = "127.0.0.1:7379";
/// Default of [`SHARD`].
pub const DEFAULT_SHARD: &str = "default";
/// Default of [`MAX_LAG_MS`].
pub const DEFAULT_MAX_LAG_MS: i64 = 10_000;
/// Least value of [`MAX_LAG_MS`].
pub const LEAST_MAX_LAG_MS: i64 = 100;
/// Largest value of [`MAX_LAG_MS`]: a day.
pub const MOST_MAX_LAG_MS: i64 = 86_400_000;
/// Largest value of [`SYNC_TIMEOUT_MS`]: a day.
pub const MOST_SYNC_TIMEOUT_MS: i64 = 86_400_000;
/// Default of [`MAX_PENDING_BYTES`].
pub const DEFAULT_MAX_PENDING_BYTES: i64 = 1 << 30;
/// Least value of [`MAX_PENDING_BYTES`].
pub const LEAST_MAX_PENDING_BYTES: i64 = 1 << 20;
/// Default of [`MAX_HELD_BYTES`].
pub const DEFAULT_MAX_HELD_BYTES: i64 = 256 << 20;
/// Least value of [`MAX_HELD_BYTES`].
pub const LEAST_MAX_HELD_BYTES: i64 = 1 << 20;

/// The names that stand after `durability.`, for the arguments of `loadmodule`.
pub const NAMES: [&str; 21] = [
    "log",
    "shard",
    "node-id",
    "auth",
    "auth-file",
    "tls",
    "tls-ca",
    "tls-crl",
    "tls-cert",
    "tls-key",
    "mode",
    "max-lag-ms",
    "max-pending-bytes",
    "max-held-bytes",
    "sync-timeout-ms",
    "allow-replicaof",
    "count-in-waitaof",
    "failover",
    "lease-ms",
    "priority",
    "announce",
];

/// Splits `host:port`; an IPv6 host may stand in brackets.
///
/// # Errors
/// What is wrong with it, for the user to read.
pub fn parse_address(address: &str) -> Result<(String, u16), String> {
    let wrong = || format!("'{address}' is not an address: give host:port, such as {DEFAULT_LOG}");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match port.parse::<u16>() {
        Ok(port) if port > 0 && !host.is_empty() && !host.contains(char::is_whitespace) => Ok((host.to_owned(), port)),
        _ => Err(wrong()),
    }
}

fn check_address(address: &str) -> Result<(), String> {
    parse_address(address).map(|_| ())
}

fn check_announce(address: &str) -> Result<(), String> {
    if address.is_empty() {
        return Ok(());
    }
    if !is_valid_address(address) {
        return Err(format!(
            "{address:?} is not an address that clients can be told: give host:port, of A-Z a-z 0-9 . _ - : [ ] %"
        ));
    }
    check_address(address)
}

/// The lease that this node asks for; zero if it does not expire.
pub fn lease() -> std::time::Duration {
    let lease_ms = if FAILOVER.is_on() { LEASE_MS.load(Ordering::Relaxed) } else { 0 };
    std::time::Duration::from_millis(lease_ms.unsigned_abs())
}

/// Among nodes that can take over, the highest does; 0: never this one.
pub fn priority() -> u32 {
    u32::try_from(PRIORITY.load(Ordering::Relaxed)).unwrap_or(0)
}

fn check_name(what: &str, name: &str) -> Result<(), String> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(format!(
        "'{name}' cannot name a {what}: use 1 to {MAX_NAME_BYTES} of A-Z a-z 0-9 . _ : -, not beginning with a dot"
    ))
}

fn check_shard(name: &str) -> Result<(), String> {
    check_name("shard", name)
}

fn check_node_id(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Ok(());
    }
    check_name("node", name)
}

/// Checks the arguments of `loadmodule`, which are pairs of a config's name without `durability.` and its value.
///
/// # Errors
/// What is wrong with them, for the user to read.
pub fn check_arguments<'a>(arguments: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let arguments: Vec<&str> = arguments.collect();
    for pair in arguments.chunks(2) {
        let name = pair[0];
        if !NAMES.contains(&name) {
            let names = NAMES.join(", ");
            return Err(format!("unknown loadmodule argument '{name}': give pairs of one of {names} and its value"));
        }
        let Some(value) = pair.get(1) else { return Err(format!("the loadmodule argument '{name}' has no value")) };
        check_value(name, value).map_err(|why| format!("the loadmodule argument '{name}' is wrong: {why}"))?;
    }
    Ok(())
}

fn check_value(name: &str, value: &str) -> Result<(), String> {
    let number_within = |least: i64, most: i64| match value.parse::<i64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(()),
        _ => Err(format!("'{value}' is not a number from {least} to {most}")),
    };
    match name {
        "mode" if Mode::ALL.iter().all(|mode| mode.name() != value) => {
            Err(format!("'{value}' is none of {}", Mode::ALL.map(Mode::name).join(", ")))
        }
        "log" => check_address(value),
        "shard" => check_shard(value),
        "node-id" => check_node_id(value),
        "tls-ca" => tls::check_ca(value),
        "tls-crl" => tls::check_crl(value),
        "tls-cert" => tls::check_certificate(value),
        "tls-key" => tls::check_key(value),
        "announce" => check_announce(value),
        "tls" | "allow-replicaof" | "count-in-waitaof" | "failover" if !["yes", "no"].contains(&value) => {
            Err(format!("'{value}' is neither yes nor no"))
        }
        "max-lag-ms" => number_within(LEAST_MAX_LAG_MS, MOST_MAX_LAG_MS),
        "max-pending-bytes" => number_within(LEAST_MAX_PENDING_BYTES, i64::MAX),
        "max-held-bytes" => number_within(LEAST_MAX_HELD_BYTES, i64::MAX),
        "sync-timeout-ms" => number_within(0, MOST_SYNC_TIMEOUT_MS),
        "lease-ms" => number_within(LEAST_LEASE_MS, MOST_LEASE_MS),
        "priority" => number_within(0, MOST_PRIORITY),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_host_and_a_port() {
        assert_eq!(parse_address("log.example:7379"), Ok(("log.example".into(), 7379)));
        assert_eq!(parse_address("[::1]:7379"), Ok(("::1".into(), 7379)));
        for bad in ["", "host", ":7379", "host:", "host:0", "host:70000", "a b:1"] {
            assert!(parse_address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_announced_is_one_address_and_nothing_else() {
        for good in ["", "10.0.0.5:6379", "[::1]:6379", "node-1.example:6379"] {
            assert_eq!(check_announce(good), Ok(()), "{good:?}");
        }
        for bad in ["host", "a:1,b:2", "a=b:1", "a\x1b[2J:1", "a\n:1", "é:1"] {
            assert!(check_announce(bad).unwrap_err().contains("give host:port"), "{bad:?}");
        }
    }

    #[test]
    fn arguments_of_loadmodule_come_in_known_pairs() {
        assert!(check_arguments(["mode", "async", "log", "h:1"].into_iter()).is_ok());
        assert!(check_arguments(["mode"].into_iter()).unwrap_err().contains("has no value"));
        assert!(check_arguments(["speed", "high"].into_iter()).unwrap_err().contains("unknown"));
        for (name, value) in
            [("mode", "fast"), ("log", "x"), ("shard", "a/b"), ("max-lag-ms", "1"), ("max-pending-bytes", "soon")]
        {
            let why = check_arguments([name, value].into_iter()).unwrap_err();
            assert!(why.contains(name) && why.contains(value), "{why}");
        }
    }
}
