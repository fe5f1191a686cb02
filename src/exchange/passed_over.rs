//! A node that had to pass over anything of its log lacks it for good: it neither leads nor serves. It starts over from a full
//! copy by itself, where that can help.

use std::fmt;
use std::time::{Duration, Instant};

use crate::settings;

/// Waits before a node starts over: doubled from the first to the second, as long as failures follow one another.
const WAIT_FROM: Duration = Duration::from_secs(1);
/// See [`WAIT_FROM`].
const WAIT_TO: Duration = Duration::from_secs(60);
/// A failure so long after the one before has nothing to do with it.
const CALM: Duration = Duration::from_secs(600);

/// What a node could not apply of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Where the command begins in the stream (exclusive end of what was applied); of a transaction, where that begins.
    pub offset: u64,
    /// The command.
    pub command: String,
    /// Why it had no effect.
    pub why: Why,
}

/// Why a command of the log had no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It ran and failed, which the server's log tells of.
    Failed,
    /// The server refused it before it ran, with that error.
    Refused(String),
    /// No leader can have put it into the log.
    NotALeaders,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this node cannot apply its log: ")?;
        write!(f, "at offset {} the command '{}' ", self.offset, self.command)?;
        match &self.why {
            Why::Failed => f.write_str("failed (the server's log says CRITICAL and why)")?,
            Why::Refused(error) => write!(f, "was refused ({error})")?,
            Why::NotALeaders => {
                return write!(
                    f,
                    "is none that a leader puts there, so it did not run: somebody else has written to this log. This node neither \
                     leads nor serves with what comes behind it. Give the shard another token, and start it anew from what stands \
                     before that offset (logservice restore --to {})",
                    self.offset
                );
            }
        }
        write!(
            f,
            ". It neither leads nor serves without it. Load or set what the command needs (a module, a limit) and restart this \
             node; or have the log service make a snapshot beyond it (LOG.SNAPSHOT {}), from which this node starts over by \
             itself",
            settings::SHARD.value()
        )
    }
}

/// When to start over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// After that time, from whatever the log has.
    After(Duration),
    /// Once the log has a snapshot that stands behind this offset: from the one that it has, the same command fails again.
    WithSnapshotBehind(u64),
}

/// Bounds how often a node takes a full copy because it had to pass over something.
#[derive(Debug, Default)]
pub struct StartingOver {
    last: Option<(u64, Instant)>,
    wait: Duration,
}

impl StartingOver {
    /// Something was passed over at `offset`. It may have failed for a reason that passes, so it is tried once more; the second time
    /// it is known to fail.
    pub fn next(&mut self, offset: u64, now: Instant) -> Step {
        let last = self.last.replace((offset, now));
        if last.is_some_and(|(at, _)| at == offset) {
            return Step::WithSnapshotBehind(offset);
        }
        let is_calm = last.is_none_or(|(_, at)| now.duration_since(at) > CALM);
        self.wait = if is_calm { WAIT_FROM } else { (self.wait * 2).min(WAIT_TO) };
        Step::After(self.wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_byte_is_tried_twice_and_then_only_from_another_snapshot() {
        let (mut starting_over, now) = (StartingOver::default(), Instant::now());
        assert_eq!(starting_over.next(7, now), Step::After(WAIT_FROM));
        assert_eq!(starting_over.next(7, now), Step::WithSnapshotBehind(7));
        assert_eq!(starting_over.next(7, now + CALM * 2), Step::WithSnapshotBehind(7));
    }

    #[test]
    fn one_failure_after_another_is_tried_more_and_more_rarely() {
        let (mut starting_over, mut now) = (StartingOver::default(), Instant::now());
        let mut waits = Vec::new();
        for offset in 0..9 {
            let Step::After(wait) = starting_over.next(offset, now) else { panic!("another byte") };
            now += wait;
            waits.push(wait.as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(starting_over.next(9, now + CALM * 2), Step::After(WAIT_FROM));
    }

    #[test]
    fn the_operator_is_told_byte_command_and_what_to_do() {
        let why = Why::Refused("ERR unknown command".to_owned());
        let text = PassedOver { offset: 7, command: "nosuch".to_owned(), why }.to_string();
        assert!(text.contains("at offset 7 the command 'nosuch' was refused (ERR unknown command)"), "{text}");
        assert!(text.contains("LOG.SNAPSHOT"), "{text}");
        let text = PassedOver { offset: 7, command: "incr".to_owned(), why: Why::Failed }.to_string();
        assert!(text.contains("at offset 7 the command 'incr' failed"), "{text}");
        let text = PassedOver { offset: 7, command: "config|set".to_owned(), why: Why::NotALeaders }.to_string();
        assert!(text.contains("at offset 7 the command 'config|set' is none that a leader puts there"), "{text}");
        assert!(text.contains("logservice restore --to 7"), "{text}");
    }
}
