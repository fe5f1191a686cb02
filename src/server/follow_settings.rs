//! The server's settings for following its log: the log's for that time, and the operator's again once the node leads.
//! Main thread only.

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{memfd_create, MemfdFlags};
use valkey_module::logging::{log_notice, log_warning};
use valkey_module::Context;

use crate::server::{api, cluster};
use crate::settings::tls::TlsSettings;

/// What the server does not take back is tried again after these times, doubled from the first to the second.
const RETRY_FROM: Duration = Duration::from_secs(1);
/// See [`RETRY_FROM`].
const RETRY_TO: Duration = Duration::from_secs(60);

/// A setting that was changed.
#[derive(Debug, Clone)]
struct Setting {
    name: &'static str,
    /// What the operator had set.
    operators: String,
    /// What it was set to instead.
    logs: String,
}

/// What was changed.
struct Changed {
    settings: Vec<Setting>,
    /// Files that are only in memory, and that settings name.
    _files: Vec<OwnedFd>,
    /// The node follows its log no more, but the server has not taken back these settings.
    retry: Option<Retry>,
    /// Whether the server was linked to its log since, so that all it holds is from there.
    is_whole: bool,
}

/// When to try again.
struct Retry {
    at: Instant,
    wait: Duration,
}

/// Whose values the settings have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Owner {
    /// The operator's, all of them.
    Operator,
    /// The log's, as long as the node follows it.
    Log,
    /// The operator's, except for some that the server has not taken back yet.
    Mixed,
}

thread_local! {
    static CHANGED: RefCell<Option<Changed>> = const { RefCell::new(None) };
}

/// The [`Owner`], for a check before every command.
static OWNER: AtomicU8 = AtomicU8::new(Owner::Operator as u8);

/// Whose the settings are now.
#[inline]
pub fn owner() -> Owner {
    match OWNER.load(Ordering::Relaxed) {
        owner if owner == Owner::Operator as u8 => Owner::Operator,
        owner if owner == Owner::Log as u8 => Owner::Log,
        _ => Owner::Mixed,
    }
}

fn put(changed: Option<Changed>) {
    let owner = match &changed {
        None => Owner::Operator,
        Some(Changed { retry: None, .. }) => Owner::Log,
        Some(_) => Owner::Mixed,
    };
    OWNER.store(owner as u8, Ordering::Relaxed);
    CHANGED.set(changed);
}

/// Makes the settings the log's. If it fails, they are what they were.
///
/// # Errors
/// The server does not take them.
pub fn set(ctx: &Context, user: &str, password: &str) -> Result<(), String> {
    // They may be the log's already, with another password or other certificates.
    let before = CHANGED.with_borrow(|changed| changed.as_ref().map(|changed| changed.settings.clone()));
    let before = before.unwrap_or_default();
    let operators = |name: &str| operators_value(&before, name, api::config(ctx, name));
    // The snapshot goes from the socket into memory: a copy on disk would take its time and serve nobody, as what this
    // node held before is void once the log sends a whole snapshot.
    let mut wanted = vec![
        ("primaryuser", user.to_owned()),
        ("primaryauth", password.to_owned()),
        ("repl-diskless-load", "flush-before-load".to_owned()),
        // What this node would evict or refuse for its own limit is in the log all the same.
        ("replica-ignore-maxmemory", "yes".to_owned()),
        // The node does not need its own RDB and AOF, so it does not end because it cannot write them.
        ("replica-ignore-disk-write-errors", "yes".to_owned()),
        // The module sees to that: a node that ends would do so at each start.
        ("propagation-error-behavior", "ignore".to_owned()),
    ];
    if cluster::is_enabled() {
        // A primary of the cluster would delete what is past its time by itself, and write what has no slot.
        wanted.extend([("import-mode", "yes".to_owned()), ("replica-read-only", "yes".to_owned())]);
    }
    let mut files = Vec::new();
    let tls = TlsSettings::configured().map_err(|error| error.to_string())?;
    let is_tls_wanted = if tls.is_some() { "yes" } else { "no" };
    let is_tls = operators("tls-replication");
    if let Some(tls) = &tls {
        add_certificates(&operators, tls, &mut wanted, &mut files)?;
    }
    // A server without TLS does not know the setting.
    if !is_tls.is_empty() && is_tls != is_tls_wanted {
        wanted.push(("tls-replication", is_tls_wanted.to_owned()));
    }
    let settings: Vec<Setting> =
        wanted.into_iter().map(|(name, logs)| Setting { name, operators: operators(name), logs }).collect();
    let mut values: Vec<_> = settings.iter().map(|setting| (setting.name, setting.logs.as_str())).collect();
    let still = still_the_logs(ctx, &before);
    let is_wanted_no_more = |setting: &&Setting| settings.iter().all(|wanted| wanted.name != setting.name);
    values.extend(still.iter().filter(is_wanted_no_more).map(|setting| (setting.name, setting.operators.as_str())));
    apply(ctx, &values).map_err(|why| {
        if tls.is_some() && why.contains("TLS") {
            return format!("{why} (its settings tls-* and durability.tls-* are used together)");
        }
        format!("{why} (a node follows its log by CONFIG SET and REPLICAOF: do not rename or disable these; use ACLs)")
    })?;
    put(Some(Changed { settings, _files: files, retry: None, is_whole: false }));
    Ok(())
}

/// What the operator has set, if the server's value is `current`: the operator may have set another since it was changed.
fn operators_value(changed: &[Setting], name: &str, current: String) -> String {
    match changed.iter().find(|setting| setting.name == name) {
        Some(setting) if setting.logs == current => setting.operators.clone(),
        _ => current,
    }
}

/// Those of the settings that nobody has set since.
fn still_the_logs(ctx: &Context, changed: &[Setting]) -> Vec<Setting> {
    changed.iter().filter(|setting| api::config(ctx, setting.name) == setting.logs).cloned().collect()
}

/// The server's own certificates stay: it may listen with them.
fn add_certificates(
    operators: &impl Fn(&str) -> String,
    tls: &TlsSettings,
    wanted: &mut Vec<(&'static str, String)>,
    files: &mut Vec<OwnedFd>,
) -> Result<(), String> {
    let is_set = |name| !operators(name).is_empty();
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    if !is_set("tls-ca-cert-file") && !is_set("tls-ca-cert-dir") {
        wanted.push(("tls-ca-cert-file", text(&tls.ca)));
    }
    let has_own = is_set("tls-cert-file");
    match &tls.pair {
        Some((certificate, key)) if !has_own => {
            wanted.extend([("tls-cert-file", text(certificate)), ("tls-key-file", text(key))]);
        }
        Some((certificate, key)) if !is_set("tls-client-cert-file") => {
            wanted.extend([("tls-client-cert-file", text(certificate)), ("tls-client-key-file", text(key))]);
        }
        None if !has_own => {
            let (certificate, key) = nameless_pair().map_err(|why| format!("no certificate for the server: {why}"))?;
            let path = |file: &OwnedFd| format!("/proc/self/fd/{}", file.as_raw_fd());
            wanted.extend([("tls-cert-file", path(&certificate)), ("tls-key-file", path(&key))]);
            files.extend([certificate, key]);
        }
        _ => {}
    }
    Ok(())
}

/// A server does not connect over TLS without a certificate of its own, although it shows that only to a peer that asks for one. So it gets a
/// certificate that nobody trusts, in files that only this process has.
fn nameless_pair() -> Result<(OwnedFd, OwnedFd), String> {
    let made = rcgen::generate_simple_self_signed(Vec::new()).map_err(|error| error.to_string())?;
    let file = |text: String| {
        let fd = memfd_create(c"durability-tls", MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(fd);
        file.write_all(text.as_bytes())?;
        Ok::<_, std::io::Error>(OwnedFd::from(file))
    };
    let pair = file(made.cert.pem()).and_then(|cert| Ok((cert, file(made.signing_key.serialize_pem())?)));
    pair.map_err(|error| error.to_string())
}

/// Another user name for the log, while the settings are the log's: the server then says that all it holds is from there.
///
/// # Errors
/// The server does not take it.
pub fn set_user(ctx: &Context, user: &str) -> Result<(), String> {
    const NAME: &str = "primaryuser";
    let current = api::config(ctx, NAME);
    let is_the_logs = CHANGED.with_borrow(|changed| {
        let settings = changed.iter().flat_map(|changed| &changed.settings);
        settings.clone().any(|setting| setting.name == NAME && setting.logs == current)
    });
    if is_the_logs {
        apply(ctx, &[(NAME, user)])?;
    }
    CHANGED.with_borrow_mut(|changed| {
        if let Some(changed) = changed {
            changed.is_whole = true;
            for setting in changed.settings.iter_mut().filter(|setting| setting.name == NAME && is_the_logs) {
                user.clone_into(&mut setting.logs);
            }
        }
    });
    Ok(())
}

/// Whether all that the server holds is from the log that it follows.
pub fn is_whole() -> bool {
    CHANGED.with_borrow(|changed| changed.as_ref().is_some_and(|changed| changed.is_whole))
}

/// Makes the settings the operator's again, if they are not. What the operator has set since stays. What the server does not
/// take back is tried again later (see [`is_retry_due`]): a file that cannot be read must not keep a node from leading.
pub fn restore(ctx: &Context) {
    let Some(changed) = CHANGED.take() else { return };
    let mut settings = still_the_logs(ctx, &changed.settings);
    let Err(why) = give_back(ctx, &settings) else {
        if changed.retry.is_some() {
            log_notice("durability: the server's settings are what they were before it followed its log");
        }
        return put(None);
    };
    // One CONFIG SET takes all or nothing, and only those for TLS depend on files.
    let (tls, others): (Vec<_>, Vec<_>) = settings.into_iter().partition(|setting| setting.name.starts_with("tls-"));
    settings = tls;
    if give_back(ctx, &others).is_err() {
        settings.extend(others);
    }
    let wait = changed.retry.as_ref().map_or(RETRY_FROM, |retry| (retry.wait * 2).min(RETRY_TO));
    if changed.retry.is_none() {
        let names: Vec<_> = settings.iter().map(|setting| setting.name).collect();
        log_warning(format!(
            "durability: the server does not take back its settings from before it followed its log ({}); trying again \
             until it does: {why}",
            names.join(", ")
        ));
    }
    put(Some(Changed { settings, retry: Some(Retry { at: Instant::now() + wait, wait }), ..changed }));
}

/// Whether [`restore`] failed, and is to be tried again now.
#[inline]
pub fn is_retry_due() -> bool {
    owner() == Owner::Mixed
        && CHANGED.with_borrow_mut(|changed| match changed {
            Some(Changed { retry: Some(retry), .. }) if retry.at <= Instant::now() => {
                // Asked again before it was tried: not yet.
                retry.at += retry.wait;
                true
            }
            _ => false,
        })
}

fn give_back(ctx: &Context, settings: &[Setting]) -> Result<(), String> {
    let values: Vec<_> = settings.iter().map(|setting| (setting.name, setting.operators.as_str())).collect();
    apply(ctx, &values)
}

fn apply(ctx: &Context, settings: &[(&'static str, &str)]) -> Result<(), String> {
    if settings.is_empty() {
        return Ok(());
    }
    let pairs = settings.iter().flat_map(|(name, value)| [*name, *value]);
    let arguments: Vec<&str> = std::iter::once("SET").chain(pairs).collect();
    api::call(ctx, "CONFIG", &arguments).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_sets_while_the_node_follows_is_the_operators() {
        let changed = [Setting { name: "primaryauth", operators: "before".to_owned(), logs: "token".to_owned() }];
        let operators = |name: &str, current: &str| operators_value(&changed, name, current.to_owned());
        assert_eq!(operators("primaryauth", "token"), "before");
        assert_eq!(operators("primaryauth", "since"), "since");
        assert_eq!(operators("primaryuser", "token"), "token");
    }
}
