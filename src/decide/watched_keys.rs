//! What EXEC reveals about the keys that its client watches: whether it executed anything says whether somebody wrote them.
//!
//! A transaction that ran says that the keys are as they were when they were watched, so it waits for what they were dirty
//! with then. One that was aborted says that something was written since. What, the server does not tell: it waits for all.

use std::collections::HashMap;

use crate::decide::gate::ClientId;
use crate::decide::valve::Group;

/// A command that ran: its client, and the address of the server's name of the command.
pub type Ran = (ClientId, usize);

/// What came of EXEC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executed {
    /// It ran nothing, or that is not known.
    Nothing,
    /// It ran its commands; the watched keys depend on this group, 0 if on none.
    Commands(Group),
}

/// The transactions of all clients, as far as replies depend on watched keys. Main thread only.
#[derive(Default)]
pub struct Watching {
    /// The command that ran last, of any client.
    last: Ran,
    /// For each client that watches a key which was dirty: the newest group among those keys. What UNWATCH makes void stays
    /// until the client's next EXEC, which may so wait for longer than it has to.
    watched: HashMap<ClientId, Group>,
}

impl Watching {
    /// A command ran. Returns the one before.
    #[inline]
    pub fn ran(&mut self, ran: Ran) -> Ran {
        std::mem::replace(&mut self.last, ran)
    }

    /// The client watches keys from now on; the newest write to one of them is in `group`. Groups up to `released` are durable.
    pub fn watched(&mut self, client: ClientId, group: Group, released: Group) {
        if group > released {
            let newest = self.watched.entry(client).or_default();
            *newest = group.max(*newest);
        }
    }

    /// The client's EXEC ran, after the command `before`. The commands of a transaction run one after the other, right before
    /// their EXEC and in the name of the same client; if there were none, the client's last command was the MULTI, or
    /// another client's came between.
    pub fn executed(&mut self, client: ClientId, before: Ran, is_multi: impl FnOnce(usize) -> bool) -> Executed {
        let watched = self.watched.remove(&client).unwrap_or(0);
        if before.0 != client || is_multi(before.1) {
            Executed::Nothing
        } else {
            Executed::Commands(watched)
        }
    }

    /// The client is gone.
    pub fn disconnected(&mut self, client: ClientId) {
        if !self.watched.is_empty() {
            self.watched.remove(&client);
        }
    }

    /// Groups are counted from the beginning, or commands ran without an event.
    pub fn forget(&mut self) {
        *self = Watching::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MULTI: usize = 1;
    const GET: usize = 2;
    const EXEC: usize = 3;

    /// Runs commands of clients; the last is an EXEC. Returns its outcome.
    fn run(watching: &mut Watching, commands: &[Ran]) -> Executed {
        let before = commands.iter().map(|ran| watching.ran(*ran)).last().unwrap();
        watching.executed(commands.last().unwrap().0, before, |command| command == MULTI)
    }

    #[test]
    fn a_transaction_that_ran_depends_on_what_its_keys_were_dirty_with_when_they_were_watched() {
        let mut watching = Watching::default();
        watching.watched(7, 3, 2);
        watching.watched(7, 5, 2);
        watching.watched(7, 4, 2);
        assert_eq!(run(&mut watching, &[(7, MULTI), (8, GET), (7, GET), (7, EXEC)]), Executed::Commands(5));
        assert_eq!(run(&mut watching, &[(7, MULTI), (7, GET), (7, EXEC)]), Executed::Commands(0), "watched no more");
    }

    #[test]
    fn what_was_durable_when_it_was_watched_is_not_kept() {
        let mut watching = Watching::default();
        watching.watched(7, 2, 2);
        assert!(watching.watched.is_empty());
    }

    #[test]
    fn a_transaction_of_which_no_command_was_seen_ran_nothing() {
        let mut watching = Watching::default();
        assert_eq!(run(&mut watching, &[(7, MULTI), (7, EXEC)]), Executed::Nothing);
        assert_eq!(run(&mut watching, &[(7, GET), (7, MULTI), (8, GET), (7, EXEC)]), Executed::Nothing);
        watching.forget();
        assert_eq!(run(&mut watching, &[(7, EXEC)]), Executed::Nothing, "nothing is known of what was before");
    }

    #[test]
    fn nothing_stays_of_a_client_that_is_gone() {
        let mut watching = Watching::default();
        watching.watched(7, 3, 2);
        watching.disconnected(7);
        assert!(watching.watched.is_empty());
    }
}
