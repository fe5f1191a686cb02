//! Where a node left its log, so that it can tell later whether it still holds just what the log had. Main thread only.

/// A replication id, and an offset in its stream (exclusive end).
pub type StreamPosition = (String, u64);

/// Where this node ceased to hold what its log had, because the mode became off.
#[derive(Debug, Default)]
pub struct LeftLog {
    /// None if that is not known, or says nothing about what was written since.
    position: Option<StreamPosition>,
    /// The node left its log, and the position is still to be noted.
    is_to_note: bool,
    /// The node led until then, so the log may lack the end of what it wrote.
    led: bool,
}

impl LeftLog {
    /// The node leaves its log: for mode off (`is_off`), or to be a replica of another server. `held_the_logs`: it holds nothing but
    /// what the log has or gets from it. `led`: it led until now.
    pub fn leave(&mut self, is_off: bool, held_the_logs: bool, led: bool) {
        if held_the_logs || !is_off {
            self.position = None;
        }
        self.is_to_note = held_the_logs && is_off;
        if self.is_to_note {
            self.led = led;
        }
    }

    /// The server's own history begins at `position`, if the position is still to be noted.
    pub fn note(&mut self, position: Option<StreamPosition>) {
        if std::mem::take(&mut self.is_to_note) {
            self.position = position;
        }
    }

    /// The log gets nothing more of what this node wrote until it left. What the log lacks then is in no log, so that only an operator can
    /// give it up.
    pub fn epoch_ended(&mut self, has_everything: bool) {
        if std::mem::take(&mut self.led) && !has_everything {
            self.position = None;
        }
    }

    /// Whether the server's stream still stands where the node left its log.
    pub fn is_still_at(&self, position: Option<&StreamPosition>) -> bool {
        self.position.is_some() && self.position.as_ref() == position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> StreamPosition {
        ("a".repeat(40), offset)
    }

    fn left_at(offset: u64, led: bool) -> LeftLog {
        let mut left = LeftLog::default();
        left.leave(true, true, led);
        left.note(Some(at(offset)));
        left
    }

    #[test]
    fn a_node_knows_where_it_left_its_log() {
        let left = left_at(7, false);
        assert!(left.is_still_at(Some(&at(7))));
        assert!(!left.is_still_at(Some(&at(8))) && !left.is_still_at(None));
        assert!(!LeftLog::default().is_still_at(None), "an unknown position equals none");
    }

    #[test]
    fn what_the_log_did_not_get_of_a_leader_makes_the_position_worthless() {
        let mut left = left_at(7, true);
        left.epoch_ended(true);
        assert!(left.is_still_at(Some(&at(7))));
        let mut left = left_at(7, true);
        left.epoch_ended(false);
        assert!(!left.is_still_at(Some(&at(7))));
        let mut left = left_at(7, false);
        left.epoch_ended(false);
        assert!(left.is_still_at(Some(&at(7))), "it did not lead, so it wrote nothing");
    }

    #[test]
    fn the_position_is_noted_once_and_only_by_a_node_that_held_what_its_log_had() {
        let mut left = LeftLog::default();
        left.leave(true, false, false);
        left.note(Some(at(7)));
        assert!(!left.is_still_at(Some(&at(7))));
        let mut left = left_at(7, false);
        left.note(Some(at(9)));
        assert!(left.is_still_at(Some(&at(7))));
        left.leave(false, false, false);
        assert!(!left.is_still_at(Some(&at(7))), "a replica of another server holds that server's data");
    }
}
