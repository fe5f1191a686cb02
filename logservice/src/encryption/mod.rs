//! Encryption at rest: AES-256-GCM under keys from a file that the operator keeps elsewhere.
//!
//! Envelope encryption: a key from the file (a *master key*, known by its id) encrypts only *data keys*. A data key is drawn at random for
//! each segment of the log and for each snapshot, and stored, wrapped, in the first bytes of that file ([`Envelope`]).
//!
//! A nonce must never be used twice with a key:
//!
//! - Master keys wrap with random nonces, one for each segment and snapshot. After 2^32 of them (256 EiB of log in segments of 64 MiB), two
//!   are equal with a probability of 2^-33.
//! - **Records of the log** have random nonces, stored in their headers. A record's place would not do as a nonce: after a crash other bytes
//!   are written at the place of a torn record, and a copy of the directory continues at the same place with other bytes. The frames of a
//!   record have its nonce with their numbers XORed into it, which are all different (`store/file_store/form.rs`). A segment has at most
//!   2^26 frames, so two of its nonces are equal with a probability of 2^-45.
//! - **Frames of a snapshot** are numbered ([`frames`]). A snapshot is written once, from beginning to end, by one process, under a key of its
//!   own. What a crash has left of it is removed and never continued.
//!
//! Checksums cover the stored bytes, so files are verified and copied without any key, and damage is distinguished from a wrong key.

mod data_key;
mod envelope;
pub mod frames;
mod key_file;
mod key_ring;

pub(crate) use data_key::draw_nonce;
pub use data_key::{DataKey, Nonce, Tag, NONCE_BYTES, TAG_BYTES};
pub use envelope::{Envelope, ENVELOPE_BYTES};
pub use key_file::{KeyFileError, KeyUse};
pub use key_ring::{KeyError, KeyRing};
