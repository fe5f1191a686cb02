//! One round: clients at work on keys of their own, a crash in the midst of it, and at the end a look at all keys.

use std::thread;
use std::time::Duration;

use anyhow::{anyhow, Result};

use crate::choices::{Crash, Plan, Which};
use crate::client;
use crate::processes::Cluster;
use durability_histories::history::{History, Recorder};
use durability_histories::services::Services;

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
    let Cluster { server, services: log, .. } = cluster;
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
            log.kill_all()?;
            recorder.note("the log was killed");
            pause();
            log.start_all()?;
        }
        Crash::LogThenServer => {
            log.kill_all()?;
            recorder.note("the log was killed");
            pause();
            server.kill()?;
            recorder.note("the server was killed");
            log.start_all()?;
            server.start()?;
        }
        Crash::ServerThenLog => {
            server.kill()?;
            log.kill_all()?;
            recorder.note("the server and the log were killed");
            server.start()?;
            pause();
            log.start_all()?;
        }
        Crash::ServerBesideStalledLog => {
            log.list.iter().try_for_each(|service| service.process.stall())?;
            recorder.note("the log stands still");
            pause();
            server.kill()?;
            recorder.note("the server was killed");
            server.start()?;
            pause();
            log.list.iter().try_for_each(|service| service.process.go_on())?;
            recorder.note("the log goes on");
            return Ok(());
        }
        Crash::StalledLogThenBoth => {
            log.list.iter().try_for_each(|service| service.process.stall())?;
            recorder.note("the log stands still");
            pause();
            server.kill()?;
            log.kill_all()?;
            recorder.note("both were killed");
            log.start_all()?;
            server.start()?;
        }
        Crash::Services(which) => {
            let victims = victims(log, which);
            for &victim in &victims {
                log.list[victim].kill()?;
            }
            recorder.note(format!("of the log services {victims:?} were killed").as_str());
            pause();
            log.start_all()?;
        }
        Crash::ServerAndServices(which) => {
            let victims = victims(log, which);
            for &victim in &victims {
                log.list[victim].kill()?;
            }
            server.kill()?;
            recorder.note(format!("the server and of the log services {victims:?} were killed").as_str());
            pause();
            server.start()?;
            log.start_all()?;
        }
    }
    recorder.note("all processes are started");
    Ok(())
}

/// The numbers of those services, for now.
fn victims(services: &Services, which: Which) -> Vec<usize> {
    let count = services.list.len();
    let decider = services.decider().unwrap_or_default();
    match which {
        Which::Decider => vec![decider],
        Which::Other => vec![(decider + 1) % count],
        Which::Two => vec![decider, (decider + 1) % count],
    }
}
