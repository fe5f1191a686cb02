//! What services say to each other, as bytes. Plain code without sockets.
//!
//! Everything is little-endian and bounded. Nothing that comes from a peer is parsed by generated code.
//!
//! | file | |
//! |---|---|
//! | `frame.rs` | frames: length, checksum, kind |
//! | `messages.rs` | a frame with messages of many groups |
//! | `message.rs` | one message of the consensus crate |
//! | `greeting.rs` | how a connection begins: who is there, and the proof |
//! | `request.rs` | requests of one service to another, and the answers |
//! | `fields.rs` | numbers, payloads and texts |
//!
//! [`VERSION`] is told when a connection begins, and both ends must have the same. It grows when anything here changes.

mod fields;
mod frame;
#[cfg(test)]
mod fuzz;
mod greeting;
mod message;
mod messages;
mod request;

pub use self::fields::{Fields, Pieces, Text};
pub use self::frame::{Frame, FrameBuffer, Header, Kind, HEADER_BYTES, MOST_FRAME_BYTES, READ_BYTES};
pub use self::greeting::{
    Begin, Challenge, Hello, Introduction, Nonce, Proof, Refusal, Welcome, GREETING_BYTES, VERSION,
};
pub use self::message::{decode, encode, wire_bytes};
pub use self::messages::{put_message, Incoming};
pub use self::request::{Reply, Request, MOST_REQUEST_BYTES};

/// What came is not what any version of this code sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);
