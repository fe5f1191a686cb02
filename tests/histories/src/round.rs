//! One round: clients at work on keys of their own, a crash in the midst of it, and at the end a look at all keys.

use std::thread;
use std::time::Duration;

use anyhow::{anyhow, Result};

use crate::choices::{Crash, Plan};
use crate::client;
use crate::processes::Cluster;
use durability_histories::history::{History, Recorder};

/// The crash comes after that time even if clients are slower than thought.
const LATEST_CRASH: Duration = Duration::from_secs(5);

/// Plays a round. The history is there even if it failed.
///
/// # Errors
/// Beside the history: a client could not go on, or a process could not be started.
pub fn play(cluster: &mut Cluster, plan: &Plan) -> (History, Result<()>) {
    let recorder = Recorder::default();
    let url = cluster.server_url.clone();
    let worked = thread::scope(|scope| {
        let (recorder, url) = (&recorder, &url);
        let run = |operations| scope.spawn(move || client::run(url, operations, recorder));
        let clients: Vec<_> = plan.operations.iter().map(|operations| run(operations.as_slice())).collect();
        recorder.wait_for_answers(plan.answers_before_crash, LATEST_CRASH);
        let crashed = crash(cluster, plan.crash, plan.pause, recorder);
        let finished: Vec<Result<()>> = clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|_| Err(anyhow!("a client panicked"))))
            .collect();
        crashed.and(finished.into_iter().collect())
    });
    let worked = worked.and_then(|()| client::run(&url, &plan.last_operations(), &recorder));
    (recorder.history(), worked)
}

fn crash(cluster: &mut Cluster, crash: Crash, pause: Duration, recorder: &Recorder) -> Result<()> {
    let Cluster { server, log, .. } = cluster;
    // Not waiting for anything: the moment is what a round is about.
    let pause = || thread::sleep(pause);
    match crash {
        Crash::Nothing => return Ok(()),
        Crash::Server => {
            server.kill()?;
            recorder.note("the server was killed");
            server.start()?;
        }
        Crash::Log => {
            log.kill()?;
            recorder.note("the log service was killed");
            pause();
            log.start()?;
        }
        Crash::LogThenServer => {
            log.kill()?;
            recorder.note("the log service was killed");
            pause();
            server.kill()?;
            recorder.note("the server was killed");
            log.start()?;
            server.start()?;
        }
        Crash::ServerThenLog => {
            server.kill()?;
            log.kill()?;
            recorder.note("the server and the log service were killed");
            server.start()?;
            pause();
            log.start()?;
        }
        Crash::ServerBesideStalledLog => {
            log.stall()?;
            recorder.note("the log service stands still");
            pause();
            server.kill()?;
            recorder.note("the server was killed");
            server.start()?;
            pause();
            log.go_on()?;
            recorder.note("the log service goes on");
            return Ok(());
        }
        Crash::StalledLogThenBoth => {
            log.stall()?;
            recorder.note("the log service stands still");
            pause();
            server.kill()?;
            log.kill()?;
            recorder.note("both were killed");
            log.start()?;
            server.start()?;
        }
    }
    recorder.note("all processes are started");
    Ok(())
}
