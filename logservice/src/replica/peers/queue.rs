//! Messages that wait to be sent to a peer on one connection. Those of one group stay in order. Groups take turns, so that one that sends
//! much does not delay the others.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use raft::eraftpb::Message;

use crate::replica::wire::wire_bytes;

/// Bytes that a group may send before it is another one's turn.
const TURN_BYTES: usize = 64 << 10;
/// What a message takes in memory without its payloads.
const OVERHEAD_BYTES: usize = 256;

/// A message, and what it takes.
#[derive(Debug)]
struct Waiting {
    message: Message,
    bytes: usize,
}

/// Messages that are sent next.
#[derive(Debug, Default)]
pub struct Batch {
    /// Each with its group.
    pub messages: Vec<(Arc<str>, Message)>,
    /// What they count in the queue, until [`Queue::sent`].
    pub bytes: usize,
}

/// The messages.
#[derive(Debug, Default)]
pub struct Queue {
    groups: HashMap<Arc<str>, VecDeque<Waiting>>,
    /// Groups that have messages, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    /// Of all that wait or are being sent.
    bytes: usize,
}

impl Queue {
    /// Adds a message, if no more than `most_bytes` wait with it, or nothing else does.
    pub fn push(&mut self, group: &str, message: Message, most_bytes: usize) -> bool {
        let bytes = wire_bytes(&message) + OVERHEAD_BYTES;
        if self.bytes > 0 && self.bytes + bytes > most_bytes {
            return false;
        }
        self.bytes += bytes;
        let waiting = Waiting { message, bytes };
        match self.groups.get_mut(group) {
            Some(messages) => messages.push_back(waiting),
            None => {
                let group = Arc::<str>::from(group);
                self.turns.push_back(group.clone());
                self.groups.insert(group, VecDeque::from([waiting]));
            }
        }
        true
    }

    /// Takes messages until they have `most_bytes`, or none is left.
    pub fn take(&mut self, most_bytes: usize) -> Batch {
        let mut batch = Batch::default();
        while batch.bytes < most_bytes {
            let Some(group) = self.turns.pop_front() else { break };
            let until = (batch.bytes + TURN_BYTES).min(most_bytes);
            let Some(messages) = self.groups.get_mut(&group) else { continue };
            while batch.bytes < until {
                let Some(Waiting { message, bytes }) = messages.pop_front() else { break };
                batch.bytes += bytes;
                batch.messages.push((group.clone(), message));
            }
            match messages.is_empty() {
                true => drop(self.groups.remove(&group)),
                false => self.turns.push_back(group),
            }
        }
        batch
    }

    /// So many bytes of a batch do not wait any more.
    pub fn sent(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Drops what waits.
    pub fn clear(&mut self) {
        *self = Queue::default();
    }

    /// Bytes of all that wait or are being sent.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(index: u64, bytes: usize) -> Message {
        Message { index, context: Bytes::from(vec![0; bytes]), ..Message::default() }
    }

    fn indexes(batch: &Batch) -> Vec<(&str, u64)> {
        batch.messages.iter().map(|(group, message)| (group.as_ref(), message.index)).collect()
    }

    #[test]
    fn a_group_keeps_its_order_and_lets_others_take_turns() {
        let mut queue = Queue::default();
        for index in 0..4 {
            assert!(queue.push("large", message(index, TURN_BYTES), usize::MAX));
        }
        for index in 0..2 {
            assert!(queue.push("small", message(index, 1), usize::MAX));
        }
        let first = queue.take(TURN_BYTES + 5000);
        assert_eq!(indexes(&first), [("large", 0), ("small", 0), ("small", 1), ("large", 1)]);
        let rest = queue.take(usize::MAX);
        assert_eq!(indexes(&rest), [("large", 2), ("large", 3)]);
        assert!(queue.is_empty() && queue.groups.is_empty() && queue.bytes() == first.bytes + rest.bytes);
        queue.sent(first.bytes);
        queue.sent(rest.bytes);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_message_too_many_is_not_taken_and_one_alone_always_is() {
        let mut queue = Queue::default();
        assert!(queue.push("a", message(0, 1000), 10));
        assert!(!queue.push("a", message(1, 0), 1000));
        let batch = queue.take(1);
        assert!(!queue.push("a", message(2, 0), 1000), "it is being sent still");
        queue.sent(batch.bytes);
        assert!(queue.push("a", message(3, 0), 1000));
    }
}
