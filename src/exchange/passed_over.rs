//! What a node could not apply of its log. Such a node lacks it for good, so it neither leads nor serves. It starts over from a full
//! copy by itself where that can help.

use std::fmt;
use std::time::{Duration, Instant};

use crate::base::backoff::Backoff;
use crate::settings;

/// The first wait before a node starts over. Waits double while failures follow one another.
const WAIT_FROM: Duration = Duration::from_secs(1);
/// The longest wait before a node starts over.
const WAIT_TO: Duration = Duration::from_secs(60);
/// A failure this long after the previous one is unrelated to it.
const CALM: Duration = Duration::from_secs(600);

/// What a node could not apply of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Where the command, or its transaction, begins in the stream: the exclusive end of what was applied.
    pub offset: u64,
    /// The command; empty if what is there is none.
    pub command: String,
    /// Why it had no effect.
    pub why: Why,
}

/// Why a command of the log had no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It ran and failed. The server's log says why.
    Failed,
    /// The server refused it before it ran, with that error.
    Refused(String),
    /// No leader can have put it into the log.
    NotALeaders,
    /// It is no command as servers write them.
    NoCommand,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this node cannot apply its log: ")?;
        if self.why == Why::NoCommand {
            write!(f, "what stands at offset {} is no command, ", self.offset)?;
            return self.advise_to_restore(f);
        }
        write!(f, "at offset {} the command '{}' ", self.offset, self.command)?;
        match &self.why {
            Why::Failed => f.write_str("failed (the server's log says CRITICAL and why)")?,
            Why::Refused(error) => write!(f, "was refused ({error})")?,
            Why::NotALeaders | Why::NoCommand => {
                f.write_str("is none that a leader puts there, ")?;
                return self.advise_to_restore(f);
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

impl PassedOver {
    fn advise_to_restore(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "so it did not run: somebody else has written to this log. This node neither leads nor serves with what comes behind it. Give \
             the shard another token, and start it anew from what stands before that offset (logservice restore --to {})",
            self.offset
        )
    }
}

/// When to take the next full copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextCopy {
    /// After that time, from whatever the log has.
    After(Duration),
    /// Once the log has a snapshot behind this offset (exclusive): from its present one, the same command fails again.
    WithSnapshotBehind(u64),
}

/// Bounds how often a node takes a full copy because it passed over something. Plain logic; agent.
#[derive(Debug)]
pub struct StartingOver {
    /// Where it last passed over something, and when.
    last: Option<(u64, Instant)>,
    waits: Backoff,
}

impl Default for StartingOver {
    fn default() -> Self {
        StartingOver { last: None, waits: Backoff::new(WAIT_FROM, WAIT_TO) }
    }
}

impl StartingOver {
    /// The node passed over something at `offset`. The reason may pass, so the same offset is tried once more. After the second failure a
    /// full copy of the same snapshot cannot help.
    pub fn next(&mut self, offset: u64, now: Instant) -> NextCopy {
        let last = self.last.replace((offset, now));
        if last.is_some_and(|(at, _)| at == offset) {
            return NextCopy::WithSnapshotBehind(offset);
        }
        if last.is_none_or(|(_, at)| now.duration_since(at) > CALM) {
            self.waits.reset();
        }
        NextCopy::After(self.waits.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_offset_is_tried_twice_and_then_only_from_another_snapshot() {
        let (mut starting_over, now) = (StartingOver::default(), Instant::now());
        assert_eq!(starting_over.next(7, now), NextCopy::After(WAIT_FROM));
        assert_eq!(starting_over.next(7, now), NextCopy::WithSnapshotBehind(7));
        assert_eq!(starting_over.next(7, now + CALM * 2), NextCopy::WithSnapshotBehind(7));
    }

    #[test]
    fn failures_that_follow_one_another_are_tried_ever_more_rarely() {
        let (mut starting_over, mut now) = (StartingOver::default(), Instant::now());
        let mut waits = Vec::new();
        for offset in 0..9 {
            let NextCopy::After(wait) = starting_over.next(offset, now) else { panic!("another offset") };
            now += wait;
            waits.push(wait.as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(starting_over.next(9, now + CALM * 2), NextCopy::After(WAIT_FROM));
    }

    #[test]
    fn the_operator_learns_offset_command_and_what_to_do() {
        let why = Why::Refused("ERR unknown command".to_owned());
        let text = PassedOver { offset: 7, command: "nosuch".to_owned(), why }.to_string();
        assert!(text.contains("at offset 7 the command 'nosuch' was refused (ERR unknown command)"), "{text}");
        assert!(text.contains("LOG.SNAPSHOT"), "{text}");
        let text = PassedOver { offset: 7, command: "incr".to_owned(), why: Why::Failed }.to_string();
        assert!(text.contains("at offset 7 the command 'incr' failed"), "{text}");
        let text = PassedOver { offset: 7, command: "config|set".to_owned(), why: Why::NotALeaders }.to_string();
        assert!(text.contains("at offset 7 the command 'config|set' is none that a leader puts there"), "{text}");
        assert!(text.contains("logservice restore --to 7"), "{text}");
        let text = PassedOver { offset: 7, command: String::new(), why: Why::NoCommand }.to_string();
        assert!(text.contains("what stands at offset 7 is no command, so it did not run"), "{text}");
        assert!(text.contains("logservice restore --to 7"), "{text}");
    }
}
