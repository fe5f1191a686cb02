//! What waits on its way to another node of the cluster: messages that were published after writes which the log does not have. Plain logic,
//! without a connection.
//!
//! The server offers whole frames of the cluster's bus, one at a time, and the rest of one that was written in part. A frame that holds a
//! published message is kept back until its group is released. Frames of every other kind, by which nodes tell that they live and who
//! leads, go past what waits. Frames are not mixed: whoever has begun one ends it first.

use std::collections::VecDeque;

use crate::decide::valve::Group;

/// `RCmb`, with which every frame of the bus begins.
const SIGNATURE: &[u8; 4] = b"RCmb";
/// `CLUSTERMSG_LIGHT`: a bit of the kind of a frame that has a short header.
const LIGHT: u16 = 0x8000;
/// `CLUSTERMSG_TYPE_PUBLISH` and `CLUSTERMSG_TYPE_PUBLISHSHARD`.
const PUBLISHED: [u16; 2] = [4, 10];

/// Whether these bytes are a whole frame that holds a message of PUBLISH or SPUBLISH.
pub fn is_published(frame: &[u8]) -> bool {
    let Some((header, _)) = frame.split_first_chunk::<14>() else { return false };
    let [s0, s1, s2, s3, l0, l1, l2, l3, _, _, _, _, k0, k1] = *header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let kind = u16::from_be_bytes([k0, k1]) & !LIGHT;
    [s0, s1, s2, s3] == *SIGNATURE && length == frame.len() && PUBLISHED.contains(&kind)
}

/// Under which circumstances the server offers a frame.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// The newest group that wrote anything.
    pub newest: Group,
    /// The newest group that is durable.
    pub released: Group,
    /// How many more bytes may wait, of all links.
    pub room: usize,
    /// Whether what clients do at this node may be told to anybody: its lease lasts, or it needs none.
    pub may_tell: bool,
}

/// What becomes of what the server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// The server writes it now, and [`BusLink::wrote`] learns how that went.
    Passes,
    /// It waits here. To the server it is written.
    Waits,
    /// It never leaves, as what is held for a local subscriber of a leader that leads no more. To the server it is written.
    Dropped,
    /// As [`Offered::Dropped`], because there is no room for it.
    NoRoom,
    /// The server is to offer it again: something else has to be written to its end.
    Later,
}

/// Whose frame is written in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Begun {
    #[default]
    Nobodys,
    Servers,
    Own,
}

/// One link to another node.
#[derive(Debug, Default)]
pub struct BusLink {
    /// Groups ascend.
    waiting: VecDeque<(Group, Box<[u8]>)>,
    /// How many bytes of the first one are sent.
    sent: usize,
    /// How many bytes all of them have.
    bytes: usize,
    begun: Begun,
    /// Whether the server has something for this link.
    has_more: bool,
    /// All published messages that the server has now are of a time that is over.
    drops: bool,
}

impl BusLink {
    /// The server has something to write, or has nothing any more.
    pub fn server_has(&mut self, more: bool) {
        self.has_more = more;
        self.drops &= more;
    }

    /// Whether the server has something to write.
    pub fn server_has_more(&self) -> bool {
        self.has_more
    }

    /// The server offers a frame, or the rest of one.
    pub fn offer(&mut self, bytes: &[u8], now: &Circumstances) -> Offered {
        match self.begun {
            Begun::Servers => return Offered::Passes,
            Begun::Own => return Offered::Later,
            Begun::Nobodys => {}
        }
        if !is_published(bytes) {
            return Offered::Passes;
        }
        if self.drops || !now.may_tell {
            return Offered::Dropped;
        }
        // Behind one that waits it waits too, so that messages stay in order.
        let group = self.waiting.back().map_or(now.newest, |(group, _)| now.newest.max(*group));
        if self.waiting.is_empty() && group <= now.released {
            return Offered::Passes;
        }
        if bytes.len() > now.room {
            return Offered::NoRoom;
        }
        self.bytes += bytes.len();
        self.waiting.push_back((group, bytes.into()));
        Offered::Waits
    }

    /// Of what passed, `written` of `offered` bytes were written.
    pub fn wrote(&mut self, written: usize, offered: usize) {
        // By TLS, what could not be written at all has to be offered again, too.
        self.begun = if written < offered { Begun::Servers } else { Begun::Nobodys };
    }

    /// What is to be written next of what waited here: the first message, or the rest of it.
    pub fn next(&self, released: Group) -> Option<&[u8]> {
        let (group, bytes) = self.waiting.front()?;
        let may = match self.begun {
            Begun::Servers => false,
            Begun::Own => true,
            Begun::Nobodys => *group <= released,
        };
        may.then(|| &bytes[self.sent..])
    }

    /// Of that, so many bytes were written.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        let length = self.waiting.front().map_or(0, |(_, bytes)| bytes.len());
        assert!(self.sent <= length, "more of a message was sent than there is");
        self.begun = Begun::Own;
        if self.sent == length {
            self.waiting.pop_front();
            self.bytes -= length;
            (self.sent, self.begun) = (0, Begun::Nobodys);
        }
    }

    /// Whether a message of this file is written in part.
    pub fn has_begun(&self) -> bool {
        self.begun == Begun::Own
    }

    /// Whether nothing of this link needs to be remembered.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.begun == Begun::Nobodys && !self.has_more
    }

    /// How many messages wait, and how many bytes they have.
    pub fn waiting(&self) -> (usize, usize) {
        (self.waiting.len(), self.bytes)
    }

    /// What was published until now may never be durable, or was published at a node that led no more. None of it leaves.
    pub fn abandon(&mut self) {
        self.waiting.truncate(usize::from(self.has_begun()));
        self.bytes = self.waiting.front().map_or(0, |(_, bytes)| bytes.len());
        self.drops = self.has_more;
    }
}

#[cfg(test)]
#[path = "bus_link_tests.rs"]
mod tests;
