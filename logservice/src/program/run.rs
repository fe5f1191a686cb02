//! What the `logservice` program does: it serves logs, or does what else its command line says.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use sd_notify::NotifyState;
use tokio::signal::unix::{signal, SignalKind};
use tracing_subscriber::EnvFilter;

use crate::base::printable::printable;
use crate::base::private::keep_private;
use crate::encryption::KeyRing;
use crate::program::command_line::{Command, CommandLine};
use crate::program::config::Config;
use crate::program::lifecycle;
use crate::snapshots::SnapshotStore;
use crate::tools::{backups, check, dump, restore};

/// Runs the program, by its command line, until it ends. Returns what the program returns. Called once, by the main thread.
pub fn run() -> ExitCode {
    keep_private();
    let line = CommandLine::parse();
    if let Some(command) = &line.command {
        return look(command);
    }
    let Some(config) = line.serving() else { return fail("nothing to do: give --dir") };
    let filter = match EnvFilter::try_new(&config.log_level) {
        Ok(filter) => filter,
        Err(error) => return fail(&format!("--log-level {}: {error}", config.log_level)),
    };
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start threads: {error}")),
    };
    let ran = runtime.block_on(serve(&config));
    // Reads for replicas may be in the middle of a system call, and need not be finished.
    runtime.shutdown_background();
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

fn look(command: &Command) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let done = match command {
        Command::Check { dir, shard, snapshots, encrypt_key_file } => {
            read_keys(encrypt_key_file.as_deref()).and_then(|keys| {
                let store = SnapshotStore::open(snapshots.as_deref(), dir).map_err(std::io::Error::other)?;
                let store = store.encrypted_with(keys.clone(), None);
                runtime.block_on(check::check(dir, &store, &keys, shard.as_deref(), &mut out))
            })
        }
        Command::Restore(options) => match runtime.block_on(restore::restore(options)) {
            Ok(restored) => writeln!(out, "{restored}").map(|()| true),
            Err(error) => return fail(&error.to_string()),
        },
        Command::Backups(flags) => match runtime.block_on(backups::run(flags, &mut out)) {
            Ok(()) => Ok(true),
            Err(error) => return fail(&error.to_string()),
        },
        Command::Dump { dir, shard, from, to, encrypt_key_file } => read_keys(encrypt_key_file.as_deref())
            .and_then(|keys| dump::dump(dir, shard, &keys, *from..*to, &mut out))
            .map(|()| true),
    };
    match done.and_then(|is_sound| out.flush().map(|()| is_sound)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader of the output has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

fn read_keys(file: Option<&Path>) -> std::io::Result<Arc<KeyRing>> {
    KeyRing::read(file).map_err(std::io::Error::other)
}

async fn serve(config: &Config) -> Result<(), lifecycle::StartError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    // With a handler, a write beyond RLIMIT_FSIZE is an error, which counts as a lack of space, and does not end the process.
    let _file_size_limit = signal(SignalKind::from_raw(libc::SIGXFSZ))?;
    let server = lifecycle::start(config).await?;
    let serves = format!("RESP on {}, HTTP on {}", server.listen, server.http);
    tell_systemd(&[NotifyState::Ready, NotifyState::Status(&serves)]);
    let name = loop {
        tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            _ = hang_up.recv() => server.reload(),
        }
    };
    tracing::info!("stopping on {name}");
    tell_systemd(&[NotifyState::Stopping]);
    server.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Says how the service is to whoever started it with `NOTIFY_SOCKET`, as a unit with `Type=notify` does; to nobody otherwise.
fn tell_systemd(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot say to systemd that the service starts or stops: {error}");
    }
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("logservice: {}", printable(&reason.replace('\n', " ")));
    ExitCode::FAILURE
}
