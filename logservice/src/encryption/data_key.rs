//! A key that encrypts the content of one file: a segment of the log, or a snapshot. Nothing else knows the cipher.

use ring::aead::{Aad, LessSafeKey, UnboundKey, AES_256_GCM};
use zeroize::Zeroizing;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 12;
/// Bytes that encrypting adds: the tag, by which a change is detected.
pub const TAG_BYTES: usize = 16;
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Never used twice with a key.
pub type Nonce = [u8; NONCE_BYTES];
/// By which a change is detected.
pub type Tag = [u8; TAG_BYTES];

/// A key that encrypts. Never shown as text.
pub struct DataKey(LessSafeKey);

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }
}

impl DataKey {
    /// The key of those bytes.
    pub(super) fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        match UnboundKey::new(&AES_256_GCM, bytes) {
            Ok(key) => DataKey(LessSafeKey::new(key)),
            // The only requirement is the length.
            Err(ring::error::Unspecified) => unreachable!("a key has {KEY_BYTES} bytes"),
        }
    }

    /// A key drawn at random, and its bytes.
    pub(super) fn draw() -> std::io::Result<(Self, Zeroizing<[u8; KEY_BYTES]>)> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut bytes[..])?;
        Ok((DataKey::new(&bytes), bytes))
    }

    /// Encrypts `buffer` in place and adds the tag. `context` is not stored; decrypting needs the same.
    ///
    /// # Errors
    /// The buffer is longer than 64 GiB.
    pub fn seal(&self, nonce: Nonce, context: &[u8], buffer: &mut Vec<u8>) -> std::io::Result<()> {
        let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
        let sealed = self.0.seal_in_place_append_tag(nonce, Aad::from(context), buffer);
        sealed.map_err(|ring::error::Unspecified| std::io::Error::other("cannot encrypt so much at once"))
    }

    /// As [`DataKey::seal`], but returns the tag instead of adding it.
    ///
    /// # Errors
    /// As those of [`DataKey::seal`].
    pub fn seal_apart(&self, nonce: Nonce, context: &[u8], bytes: &mut [u8]) -> std::io::Result<Tag> {
        let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
        let sealed = self.0.seal_in_place_separate_tag(nonce, Aad::from(context), bytes);
        let tag = sealed.map_err(|ring::error::Unspecified| std::io::Error::other("cannot encrypt so much at once"))?;
        let mut out = [0; TAG_BYTES];
        out.copy_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Decrypts the result of [`DataKey::seal_apart`] in place. False if it was sealed with another key, nonce, context or tag, or was changed
    /// since; then `stored` holds meaningless bytes.
    #[must_use]
    pub fn open_apart(&self, nonce: Nonce, context: &[u8], stored: &mut [u8], tag: Tag) -> bool {
        let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place_separate_tag(nonce, Aad::from(context), tag.into(), stored, 0..).is_ok()
    }

    /// Decrypts the result of [`DataKey::seal`] in place, and returns the plain bytes: all of `stored` without its last [`TAG_BYTES`]. `None`
    /// if it was sealed with another key, nonce or context, or was changed since; then `stored` holds meaningless bytes.
    pub fn open<'a>(&self, nonce: Nonce, context: &[u8], stored: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place(nonce, Aad::from(context), stored).ok()
    }
}

/// A nonce drawn at random.
pub(crate) fn draw_nonce() -> std::io::Result<Nonce> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_open_only_with_the_same_key_nonce_and_context() {
        let key = DataKey::new(&[1; KEY_BYTES]);
        let mut sealed = b"payload".to_vec();
        key.seal([2; NONCE_BYTES], b"context", &mut sealed).expect("sealed");
        assert_eq!(sealed.len(), 7 + TAG_BYTES);
        let open = |key: &DataKey, nonce, context: &[u8], mut stored: Vec<u8>| {
            key.open(nonce, context, &mut stored).map(|opened| opened.to_vec())
        };
        assert_eq!(open(&key, [2; NONCE_BYTES], b"context", sealed.clone()).as_deref(), Some(&b"payload"[..]));
        assert_eq!(open(&key, [3; NONCE_BYTES], b"context", sealed.clone()), None);
        assert_eq!(open(&key, [2; NONCE_BYTES], b"contexts", sealed.clone()), None);
        assert_eq!(open(&DataKey::new(&[3; KEY_BYTES]), [2; NONCE_BYTES], b"context", sealed.clone()), None);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&key, [2; NONCE_BYTES], b"context", flipped), None, "bit {bit}");
        }
        assert_eq!(open(&key, [2; NONCE_BYTES], b"context", sealed[..TAG_BYTES - 1].to_vec()), None);
    }

    #[test]
    fn a_tag_that_is_kept_apart_is_the_one_that_is_added() {
        let key = DataKey::new(&[1; KEY_BYTES]);
        let (nonce, plain) = ([2; NONCE_BYTES], b"payload");
        let (mut joined, mut apart) = (plain.to_vec(), plain.to_vec());
        key.seal(nonce, b"context", &mut joined).expect("sealed");
        let tag = key.seal_apart(nonce, b"context", &mut apart).expect("sealed");
        assert_eq!([&apart[..], &tag].concat(), joined);
        let open = |nonce, context: &[u8], tag| {
            let mut stored = apart.clone();
            key.open_apart(nonce, context, &mut stored, tag).then_some(stored)
        };
        assert_eq!(open(nonce, b"context", tag).as_deref(), Some(&plain[..]));
        assert_eq!(open([3; NONCE_BYTES], b"context", tag), None);
        assert_eq!(open(nonce, b"contexts", tag), None);
        for bit in 0..tag.len() * 8 {
            let mut flipped = tag;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(nonce, b"context", flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn the_cipher_is_standard_aes_256_gcm() {
        // Test case 14 of McGrew and Viega, "The Galois/Counter Mode of Operation".
        let mut sealed = vec![0; 16];
        DataKey::new(&[0; KEY_BYTES]).seal([0; NONCE_BYTES], b"", &mut sealed).expect("sealed");
        let text: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919");
    }
}
