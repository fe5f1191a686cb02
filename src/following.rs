//! The server's settings for following its log: the log's for that time, and the operator's again once the node leads.
//! Main thread only.

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{memfd_create, MemfdFlags};
use valkey_module::Context;

use crate::server;
use crate::tls::TlsSettings;

/// What was changed.
struct Changed {
    /// The names of the settings, and the operator's values.
    operators: Vec<(&'static str, String)>,
    /// Files that are only in memory, and that settings name.
    _files: Vec<OwnedFd>,
}

thread_local! {
    static CHANGED: RefCell<Option<Changed>> = const { RefCell::new(None) };
}

/// Whether the settings are the log's.
pub fn are_the_logs() -> bool {
    CHANGED.with_borrow(Option::is_some)
}

/// Makes the settings the log's.
///
/// # Errors
/// The server does not take them.
pub fn set(ctx: &Context, user: &str, password: &str) -> Result<(), String> {
    // What the operator has set decides below.
    restore(ctx)?;
    // The snapshot goes from the socket into memory: a copy on disk would take its time and serve nobody, as what this
    // node held before is void once the log sends a whole snapshot.
    let mut wanted = vec![
        ("primaryuser", user.to_owned()),
        ("primaryauth", password.to_owned()),
        ("repl-diskless-load", "flush-before-load".to_owned()),
    ];
    let mut files = Vec::new();
    let tls = TlsSettings::configured().map_err(|error| error.to_string())?;
    let is_tls_wanted = if tls.is_some() { "yes" } else { "no" };
    let is_tls = server::config(ctx, "tls-replication");
    if let Some(tls) = &tls {
        add_certificates(ctx, tls, &mut wanted, &mut files)?;
    }
    // A server without TLS does not know the setting.
    if !is_tls.is_empty() && is_tls != is_tls_wanted {
        wanted.push(("tls-replication", is_tls_wanted.to_owned()));
    }
    let operators = wanted.iter().map(|(name, _)| (*name, server::config(ctx, name))).collect();
    CHANGED.set(Some(Changed { operators, _files: files }));
    apply(ctx, &wanted).map_err(|why| {
        if tls.is_some() && why.contains("TLS") {
            return format!("{why} (its settings tls-* and durability.tls-* are used together)");
        }
        format!("{why} (a node follows its log by CONFIG SET and REPLICAOF: do not rename or disable these; use ACLs)")
    })
}

/// What the server has of its own stays: it may listen with it.
fn add_certificates(
    ctx: &Context,
    tls: &TlsSettings,
    wanted: &mut Vec<(&'static str, String)>,
    files: &mut Vec<OwnedFd>,
) -> Result<(), String> {
    let is_set = |name| !server::config(ctx, name).is_empty();
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

/// A server does not connect by TLS without a certificate of its own, although it shows it to nobody who does not ask for
/// one. So it gets one that nobody trusts, in files that only this process has.
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

/// Makes the settings the operator's again, if they are not.
///
/// # Errors
/// The server does not take them.
pub fn restore(ctx: &Context) -> Result<(), String> {
    match CHANGED.take() {
        Some(changed) => apply(ctx, &changed.operators),
        None => Ok(()),
    }
}

fn apply(ctx: &Context, settings: &[(&'static str, String)]) -> Result<(), String> {
    let pairs = settings.iter().flat_map(|(name, value)| [*name, value.as_str()]);
    let arguments: Vec<&str> = std::iter::once("SET").chain(pairs).collect();
    server::call(ctx, "CONFIG", &arguments).map(drop)
}
