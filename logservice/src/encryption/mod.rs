//! Encryption of what is kept on disks and in object stores: AES-256-GCM under keys of a file that the operator keeps elsewhere.
//!
//! Envelopes: a key of the file (a *master key*, known by its id) encrypts nothing but *data keys*. A data key is drawn at random for each
//! segment of the log and for each snapshot, and stands in that file's first bytes, wrapped ([`Envelope`]). It never leaves that file.
//!
//! A nonce must never be used twice with a key:
//!
//! - Master keys wrap with nonces drawn at random, one for each segment and snapshot: 2^32 of those (256 EiB of log in segments of 64 MiB)
//!   leave a chance of 2^-33 that two are equal.
//! - **Records of the log** have nonces drawn at random, which stand in their headers. A record's place would not do: what a crash has torn is
//!   written again at the same place with other bytes, and so is what a copy of the directory goes on with. A segment has at most 2^26
//!   records, so two of its nonces are equal with a chance of 2^-45.
//! - **Frames of a snapshot** are counted ([`frames`]). A snapshot is written once, from its beginning to its end, by one process, under a key
//!   that was drawn for that: what a crash has left of it is removed, never gone on with.
//!
//! Checksums are taken of what is stored, so files are verified and copied without any key, and damage is told from a wrong key.

mod data_key;
mod envelope;
pub mod frames;
mod key_file;
mod key_ring;

pub(crate) use data_key::draw_nonce;
pub use data_key::{DataKey, Nonce, NONCE_BYTES, TAG_BYTES};
pub use envelope::{Envelope, ENVELOPE_BYTES};
pub use key_file::{KeyFileError, KeyUse};
pub use key_ring::{KeyError, KeyRing};
