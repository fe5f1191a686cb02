//! Finds what stands in the log and is no command as servers write them. The server applies nothing from that byte on. It waits until
//! `repl-timeout`, takes a full copy, comes to the same byte, and tells nobody but its own log. So a node whose server stands still looks
//! into the log itself. Agent's thread.

use std::time::{Duration, Instant};

use durability_protocol::{Logged, NotLogged, Scanner, Unfit};

use crate::agent::interrupt::Interrupt;
use crate::agent::state::Agent;
use crate::exchange::mailbox::Task;
use crate::exchange::passed_over::{PassedOver, Why};
use crate::log::control::LogConnection;

/// A server that stands still for so long may not just be connecting, or receiving the rest of a command.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most bytes that are looked at: the server has applied everything before them, so it is the first command that stops it.
const MOST_BYTES: usize = 64 << 10;

/// Looks at the log from where the server stands.
#[derive(Debug, Default)]
pub struct BrokenStream {
    /// Where the server stands, and since when.
    stands: Option<((String, u64), Instant)>,
    has_looked: bool,
}

impl BrokenStream {
    /// The server has applied what it received.
    pub fn goes_on(&mut self) {
        self.stands = None;
    }

    /// The server, of that version, has no link to its log, or does not apply what it receives. If what follows in the log is no command,
    /// the node is taken out of the log's history. Looks once at each place where the server stands for a while.
    ///
    /// # Errors
    /// Something else is to be done first.
    pub fn look(&mut self, agent: &mut Agent, version: &str) -> Result<(), Interrupt> {
        // A server that cannot say where it stands has no stream to go on with.
        let Ok(at) = agent.control.ask(Task::StandsAt)? else { return Ok(()) };
        let since = match &self.stands {
            Some((before, since)) if *before == at => *since,
            _ => {
                (self.stands, self.has_looked) = (Some((at, Instant::now())), false);
                return Ok(());
            }
        };
        if self.has_looked || since.elapsed() < PATIENCE {
            return Ok(());
        }
        let (replid, offset) = at;
        let (mut scanner, mut bytes_left) = (Scanner::new(offset), MOST_BYTES);
        let mut broken_at = None;
        let read = LogConnection::open(&agent.shared).and_then(|mut log| {
            log.read_stream(version, &replid, offset, |bytes| {
                bytes_left = bytes_left.saturating_sub(bytes.len());
                // Names are judged by the server, which comes that far.
                match scanner.scan(bytes, |_| Some(Logged::Yes)) {
                    Ok(()) => bytes_left > 0,
                    Err(NotLogged { offset, what }) => {
                        broken_at = (what == Unfit::NoCommand).then_some(offset);
                        false
                    }
                }
            })
        });
        // If it cannot be read, the server's link may be missing for the same reason. The next look tries again.
        self.has_looked = read.is_ok();
        if let Some(offset) = broken_at {
            agent.shared.send(Task::PassOver(PassedOver { offset, command: String::new(), why: Why::NoCommand }));
        }
        Ok(())
    }
}
