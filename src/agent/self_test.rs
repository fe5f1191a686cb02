//! Tests whether this server's replies can be held, before sync mode relies on it.
//!
//! The module opens a connection to its own server that is held from its login on. It checks that the server wrote the answers to two
//! logins, that neither arrived, and that both arrive once the connection is released. Agent's thread.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use valkey_module::logging::log_warning;

use crate::agent::control::Control;
use crate::agent::interrupt::Interrupt;
use crate::agent::own_server::{self, Stream};
use crate::exchange::mailbox::Task;
use crate::exchange::own_logins;
use crate::log::request::encode;

const ANSWERS: &[u8] = b"+OK\r\n+OK\r\n";
const OK: &[u8] = b"+OK\r\n";
/// How often the test checks how far the server is.
const STEP_POLL: Duration = Duration::from_millis(1);
/// How long the server may take for each step.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the test did not pass.
pub enum Unfinished {
    /// This server does not work as it must.
    Failed(String),
    /// Something else is to be done first.
    Interrupted(Interrupt),
}

impl From<String> for Unfinished {
    fn from(why: String) -> Self {
        Unfinished::Failed(why)
    }
}

impl From<Interrupt> for Unfinished {
    fn from(interrupt: Interrupt) -> Self {
        Unfinished::Interrupted(interrupt)
    }
}

/// Runs the test.
///
/// # Errors
/// Something did not work, or something else is to be done first.
pub fn run(control: &mut Control) -> Result<(), Unfinished> {
    let failed = |what: &str, error: std::io::Error| format!("{what}: {error}");
    // Two logins instead of a PING: operators rename commands, and without AUTH the module could not log in at all.
    let mut stream = match own_server::log_in(control, own_logins::SELF_TEST, 2) {
        Err(Interrupt::Failed(why)) => return Err(why.into()),
        opened => opened?,
    };
    let deadline = Instant::now() + STEP_TIMEOUT;
    loop {
        let waiting = control.ask(Task::SelfTestPending)?;
        if waiting == ANSWERS.len() as u64 {
            break;
        }
        if Instant::now() > deadline {
            return Err(
                format!("the server offered {waiting} bytes of held replies instead of {}", ANSWERS.len()).into()
            );
        }
        control.pause(STEP_POLL)?;
    }
    stream.set_nonblocking(true).map_err(|error| failed("the connection failed", error))?;
    let mut early = [0; 64];
    match stream.read(&mut early) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Ok(0) => return Err("the server closed a held connection".to_owned().into()),
        Ok(count) => return Err(format!("a held reply of {count} bytes left the server").into()),
        Err(error) => return Err(failed("reading failed", error).into()),
    }

    control.ask(Task::SelfTestRelease)?;
    stream.set_nonblocking(false).map_err(|error| failed("the connection failed", error))?;
    let mut answers = [0; ANSWERS.len()];
    stream.read_exact(&mut answers).map_err(|error| failed("a released reply did not arrive", error))?;
    if answers != ANSWERS {
        return Err(format!("released replies arrived as '{}'", answers.escape_ascii()).into());
    }
    learn_databases(control, &stream)?;
    if !(control.support.knows_clients)() {
        return Err("where the server's clients keep a command's arguments was not found".to_owned().into());
    }
    Ok(())
}

/// The databases that the test's client selects until it is known where clients keep the number: as a rule the first four suffice, and only they
/// are sure to exist. Any word that is as the number is for those, by chance, is not for the others.
const DATABASES: [u32; 10] = [0, 1, 0, 1, 2, 3, 0, 2, 3, 1];

/// Makes the main thread find where clients keep the number of their database. If it does not find that, a key that is dirty in one database
/// counts as dirty in all, and what scripts write counts as not in the log.
fn learn_databases(control: &mut Control, mut stream: &Stream) -> Result<(), Unfinished> {
    let failed = |error: std::io::Error| format!("selecting a database failed: {error}");
    for number in DATABASES {
        stream.write_all(&encode(&["SELECT", &number.to_string()])).map_err(failed)?;
        let mut answer = [0; OK.len()];
        stream.read_exact(&mut answer).map_err(failed)?;
        if answer != OK {
            // An error, which is longer than this.
            if number == 1 {
                control.shared.send(Task::OneDatabase);
                return Ok(());
            }
            break;
        }
        if control.ask(|reply| Task::LearnDatabase(number, reply))? {
            return Ok(());
        }
    }
    log_warning(
        "durability: where the server's clients keep their database was not found: a key that is written in one database holds reads of its \
         name in all, and after each write of a script the log starts anew from this node's data",
    );
    Ok(())
}
