//! A frame with messages of many groups, one after the other: the length of the group's name (1), the name, the message.

use raft::eraftpb::Message;

use super::fields::{Fields, Pieces, Text};
use super::{message, Malformed};

/// Adds a message of `group` to a frame. Returns whether it may travel: if not, nothing is added.
pub fn put_message(group: &str, message: &Message, to: &mut Pieces) -> bool {
    // Finds out first, as the name comes before the message.
    if !message::travels(message) || group.len() > usize::from(u8::MAX) {
        return false;
    }
    to.put_text(group);
    message::encode(message, to)
}

/// The messages in a frame, each with its group. Ends after the first that is malformed.
pub struct Incoming(Fields);

impl Incoming {
    /// The messages in a frame.
    pub fn new(fields: Fields) -> Self {
        Incoming(fields)
    }

    fn one(&mut self) -> Result<(Text, Message), Malformed> {
        Ok((self.0.text_bytes()?, message::decode(&mut self.0)?))
    }
}

impl Iterator for Incoming {
    type Item = Result<(Text, Message), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.left() == 0 {
            return None;
        }
        let one = self.one();
        if one.is_err() {
            self.0 = Fields::new(bytes::Bytes::new(), 0);
        }
        Some(one)
    }
}
