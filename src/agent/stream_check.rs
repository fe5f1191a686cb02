//! Keeps out of the log what no node and no engine would apply: a command that no leader logs, which another module has put into the stream
//! (`RM_Replicate`). The thread that taps the stream.

use std::sync::Arc;

use durability_protocol::{NotLogged, Scanner, Unfit};

use crate::exchange::stream_rules::CurrentRules;

/// Looks at the stream as it is tapped.
#[derive(Debug, Default)]
pub struct StreamCheck {
    rules: Arc<CurrentRules>,
    /// There were rules when this node came to lead: offsets that were noted before may be those of another stream.
    had_rules: bool,
    /// Where it is in the stream; `None` where nothing is looked at.
    scanner: Option<Scanner>,
    /// The log takes nothing more before it has a snapshot that stands behind what was found.
    is_cut: bool,
    found: Option<String>,
}

impl StreamCheck {
    /// For a node that comes to lead. Looks for what breaks the rules, as soon as there are any.
    pub fn new(rules: Arc<CurrentRules>) -> Self {
        StreamCheck { had_rules: rules.get().is_some(), rules, ..StreamCheck::default() }
    }

    /// A tap was opened: from a snapshot, or where the backlog ends.
    pub fn tap_opened(&mut self) {
        self.is_cut = false;
    }

    /// How many of the bytes that come next, at `offset`, may go to the log.
    pub fn fit(&mut self, offset: u64, bytes: &[u8]) -> usize {
        if self.is_cut {
            return 0;
        }
        let Some(rules) = self.rules.get() else { return bytes.len() };
        let end = offset + bytes.len() as u64;
        let from = if self.had_rules { offset } else { rules.from.max(offset) };
        let scanner = match &mut self.scanner {
            Some(scanner) if scanner.offset() == offset => scanner,
            _ if from >= end => return bytes.len(),
            scanner => scanner.insert(Scanner::new(from)),
        };
        let unlooked = &bytes[(scanner.offset() - offset) as usize..];
        let Err(NotLogged { offset: at, what }) = scanner.scan(unlooked, |name| rules.commands.get(name).copied())
        else {
            return bytes.len();
        };
        self.scanner = None;
        match what {
            // An unknown subcommand. The server knows each command itself, as it would not have put it there.
            Unfit::Unknown(command) if command.contains('|') => self.cut(command, at, offset),
            Unfit::NotLogged(command) => self.cut(command, at, offset),
            // A command that has another name here, or a look that did not begin where a command does. Looks on with the next bytes.
            Unfit::Unknown(_) | Unfit::NoCommand => bytes.len(),
        }
    }

    /// The command that was found since this was last asked.
    pub fn take_found(&mut self) -> Option<String> {
        self.found.take()
    }

    /// Whether something was found that nobody has asked for yet.
    pub fn has_found(&self) -> bool {
        self.found.is_some()
    }

    /// Its transaction may have begun before `offset`. Without its end, nobody applies it.
    fn cut(&mut self, command: String, at: u64, offset: u64) -> usize {
        self.is_cut = true;
        self.found = Some(command);
        at.saturating_sub(offset) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use durability_protocol::Logged;

    use super::*;

    const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
    const CONFIG: &[u8] = b"*3\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$1\r\nx\r\n";

    fn load_another_module(rules: &CurrentRules, offset: u64) {
        let commands = [
            ("set", Logged::Yes),
            ("multi", Logged::Yes),
            ("exec", Logged::Yes),
            ("config", Logged::BySubcommand),
            ("config|set", Logged::Never),
        ];
        rules.set(offset, HashMap::from(commands.map(|(name, logged)| (name.to_owned(), logged))));
    }

    /// Of a node to which another module is loaded while it leads.
    fn check(from: u64) -> StreamCheck {
        let rules = Arc::new(CurrentRules::default());
        let check = StreamCheck::new(Arc::clone(&rules));
        load_another_module(&rules, from);
        check
    }

    #[test]
    fn without_other_modules_nothing_is_looked_at() {
        let mut check = StreamCheck::default();
        assert_eq!(check.fit(7, CONFIG), CONFIG.len());
        assert!(!check.has_found());
    }

    #[test]
    fn what_no_leader_logs_is_cut_with_all_that_follows_however_the_stream_is_cut() {
        let stream = [SET, CONFIG, SET].concat();
        for at in 0..=stream.len() {
            let mut check = check(0);
            let (first, second) = stream.split_at(at);
            let fit = check.fit(100, first) + check.fit(100 + at as u64, second);
            assert_eq!(check.take_found().as_deref(), Some("config|set"), "{at}");
            // What of it came before its name was known is the beginning of a command, which nobody applies.
            assert!((SET.len()..SET.len() + CONFIG.len()).contains(&fit), "{at}: {fit}");
            assert_eq!(check.fit(100 + fit as u64, SET), 0);
            check.tap_opened();
            assert_eq!(check.fit(5000, SET), SET.len());
            assert!(!check.has_found());
        }
    }

    #[test]
    fn nothing_of_a_transaction_is_left_and_an_unknown_subcommand_counts() {
        let unknown = b"*2\r\n$6\r\nCONFIG\r\n$5\r\nOTHER\r\n";
        for unfit in [CONFIG, unknown] {
            let stream = [SET, b"*1\r\n$5\r\nMULTI\r\n", SET, unfit, b"*1\r\n$4\r\nEXEC\r\n"].concat();
            let mut check = check(0);
            assert_eq!(check.fit(0, &stream), SET.len());
            assert!(check.has_found());
        }
    }

    #[test]
    fn what_was_written_before_another_module_was_loaded_is_not_looked_at() {
        let stream = [CONFIG, SET, CONFIG].concat();
        let mut check = check(100 + CONFIG.len() as u64);
        assert_eq!(check.fit(100, &stream), CONFIG.len() + SET.len());
        // As long as it leads. The offset may be one of another stream.
        let rules = Arc::new(CurrentRules::default());
        load_another_module(&rules, 1 << 40);
        assert_eq!(StreamCheck::new(rules).fit(100, &stream), 0);
    }

    #[test]
    fn what_has_another_name_passes_and_what_comes_behind_it_is_looked_at() {
        let mut check = check(0);
        let renamed = b"*1\r\n$3\r\nNEW\r\n";
        assert_eq!(check.fit(0, renamed), renamed.len());
        assert_eq!(check.fit(renamed.len() as u64, CONFIG), 0);
    }
}
