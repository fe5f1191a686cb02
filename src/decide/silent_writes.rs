//! Finds what modules write without putting it into the replication stream, and so into the log.
//!
//! A module's command puts into the stream what it likes. If the commands that it calls wrote something, and neither they nor it
//! itself put anything there, the log lacks what they wrote. What is written otherwise (by the interface of an opened key) counts
//! nowhere, and is not found; nor is a write of a command that puts something else into the stream.

/// What waits to be put into the stream when the command that runs now is done, as the number of commands; `None` if the server
/// does not say.
pub type Queued = Option<u32>;

/// Where things stood when a module first called a command that wrote.
#[derive(Debug, Clone, Copy)]
struct Mark {
    queued: Queued,
    /// The end of the stream.
    offset: u64,
    /// Number of changes that the called commands made.
    changes: i64,
}

/// Follows the events of commands. Main thread only.
#[derive(Debug, Default)]
pub struct SilentWrites {
    mark: Option<Mark>,
}

impl SilentWrites {
    /// A module called a command that made `changes` changes. At that command's event.
    pub fn called(&mut self, queued: Queued, offset: u64, changes: i64, is_module: bool) {
        match &mut self.mark {
            // What the command called has been counted.
            Some(mark) if is_module => mark.changes = mark.changes.max(changes),
            Some(mark) => mark.changes += changes,
            None => self.mark = Some(Mark { queued, offset, changes }),
        }
    }

    /// Whether a module has called a command that wrote since this was last judged.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        self.mark.is_some()
    }

    /// A command that no module called has ended, with `changes` changes. At its event. Returns whether what modules wrote within it is not put
    /// into the stream. If that has moved to `offset` meanwhile, what they wrote before the command is in it.
    pub fn command_ended(&mut self, queued: Queued, offset: u64, changes: i64, is_module: bool) -> bool {
        let Some(Mark { queued: Some(before), offset: stood, changes: called }) = self.mark else { return false };
        self.mark = None;
        // A change that no called command made is the server's note that the module's command put something into the stream.
        let replicated_first = is_module && changes > called;
        queued == Some(before) && offset == stood && !replicated_first
    }

    /// Nothing runs any more. Returns whether what modules wrote since the last command is not in the stream.
    pub fn nothing_runs(&mut self, offset: u64) -> bool {
        self.mark.take().is_some_and(|mark| mark.offset == offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_call(queued: Queued) -> SilentWrites {
        let mut writes = SilentWrites::default();
        writes.called(queued, 100, 1, false);
        writes
    }

    #[test]
    fn a_command_that_puts_nothing_into_the_stream_is_found() {
        assert!(after_call(Some(0)).command_ended(Some(0), 100, 1, true));
        assert!(after_call(Some(3)).command_ended(Some(3), 100, 1, true), "in a transaction, behind other writes");
        assert!(
            after_call(Some(0)).command_ended(Some(0), 100, 2, false),
            "a module that responds to a change, within a plain command"
        );
    }

    #[test]
    fn a_command_that_replicates_is_not() {
        assert!(!after_call(Some(0)).command_ended(Some(1), 100, 1, true), "the called command is replicated");
        assert!(!after_call(Some(0)).command_ended(Some(1), 100, 2, true), "the command replicates itself behind it");
        assert!(!after_call(Some(1)).command_ended(Some(1), 100, 2, true), "the command replicated itself before");
        assert!(!SilentWrites::default().command_ended(Some(0), 100, 5, true), "nothing was called");
    }

    #[test]
    fn what_was_replicated_before_the_command_is_not() {
        assert!(
            !after_call(Some(0)).command_ended(Some(0), 140, 1, false),
            "a callback's write, flushed before this command"
        );
    }

    #[test]
    fn what_a_called_module_command_calls_counts_once() {
        let mut writes = after_call(Some(0));
        writes.called(Some(0), 100, 1, true);
        assert!(writes.command_ended(Some(0), 100, 1, true));
    }

    #[test]
    fn outside_of_commands_and_without_the_queue_the_stream_tells() {
        assert!(after_call(Some(0)).nothing_runs(100));
        assert!(!after_call(Some(0)).nothing_runs(101));
        let mut unknown = after_call(None);
        assert!(!unknown.command_ended(None, 100, 1, true));
        assert!(unknown.nothing_runs(100));
        assert!(!unknown.nothing_runs(100), "judged once");
    }
}
