//! What the server writes to a client that is half closed.

use std::ffi::c_int;

use crate::server::vectors::{buffers, write_again_later};

/// Collects what the server writes, as a socket would take it.
pub struct Gathered {
    bytes: Vec<u8>,
    /// How many bytes may be kept.
    most: usize,
    /// The byte after them, once it is offered alone: it is the last. It stays with the server, which would close the client anew once it
    /// has nothing left to write.
    last: Option<u8>,
    is_too_much: bool,
    /// The address in the server's memory before which everything is written already; `None` once that address was offered.
    begin: Option<usize>,
    /// How many bytes stood before that.
    written: Option<usize>,
}

impl Gathered {
    /// How many bytes there are so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Begins with `bytes`, and keeps at most `most`. What the server offers from memory before the address `begin` is written already.
    pub fn new(bytes: Vec<u8>, most: usize, begin: Option<usize>) -> Self {
        Gathered { bytes, most, last: None, is_too_much: false, begin, written: None }
    }

    /// Takes what the server offers, all but its last byte, as a socket with endless room would.
    pub fn gather(&mut self, vectors: &[libc::iovec]) -> c_int {
        let offered: usize = vectors.iter().map(|vector| vector.iov_len).sum();
        self.is_too_much |= self.bytes.len() + offered > self.most;
        if offered == 0 || self.is_too_much {
            return write_again_later();
        }
        for buffer in buffers(vectors) {
            let place = self.begin.and_then(|begin| begin.checked_sub(buffer.as_ptr().addr()));
            if let Some(place) = place.filter(|place| *place < buffer.len()) {
                (self.begin, self.written) = (None, Some(self.bytes.len() + place));
            }
            self.bytes.extend_from_slice(buffer);
        }
        let last = self.bytes.pop();
        self.last = last.filter(|_| offered == 1);
        if offered == 1 {
            return write_again_later();
        }
        c_int::try_from(offered - 1).expect("more than is kept")
    }

    /// The first `taken` bytes, with which it began, and behind them everything that is not written. `None` if that is more than may be
    /// kept, or if not all of it was offered because the lease has passed meanwhile.
    pub fn complete(mut self, taken: usize) -> Option<Vec<u8>> {
        self.bytes.push(self.last?);
        if self.begin.is_some() || self.is_too_much {
            return None;
        }
        if let Some(written) = self.written {
            self.bytes.drain(taken..written);
        }
        Some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::c_void;

    use super::*;

    const MOST_BYTES: usize = 64 << 20;

    /// As the server offers `all` to a connection: `at_once` bytes at most, and again what was not taken.
    fn gathered(all: &[u8], at_once: usize) -> Option<Vec<u8>> {
        let mut gathered = Gathered::new(Vec::new(), MOST_BYTES, None);
        let mut sent = 0;
        loop {
            let offered = &all[sent..all.len().min(sent + at_once)];
            let (first, second) = offered.split_at(offered.len() / 2);
            let vectors = [first, second]
                .map(|part| libc::iovec { iov_base: part.as_ptr().cast::<c_void>().cast_mut(), iov_len: part.len() });
            match gathered.gather(&vectors) {
                -1 => return gathered.complete(0),
                taken => sent += taken as usize,
            }
            assert!(sent < all.len(), "the server has nothing left, and closes the client");
        }
    }

    #[test]
    fn all_is_gathered_and_the_server_keeps_one_byte() {
        let all: Vec<u8> = (0..=255).collect();
        for length in [1, 2, 3, 7, 256] {
            for at_once in [2, 3, 100, 1000] {
                assert_eq!(gathered(&all[..length], at_once).as_deref(), Some(&all[..length]), "{length} {at_once}");
            }
        }
    }

    #[test]
    fn a_part_of_it_is_not_kept() {
        let taken = || Gathered::new(vec![0; 100], MOST_BYTES, None);
        assert_eq!(taken().complete(100), None, "nothing was offered");
        let mut gathered = taken();
        let part = libc::iovec { iov_base: b"begin".as_ptr().cast::<c_void>().cast_mut(), iov_len: 5 };
        assert_eq!(gathered.gather(&[part]), 4);
        assert_eq!(gathered.complete(100), None, "the rest was not offered");
    }

    #[test]
    fn what_an_io_thread_has_written_is_not_kept_though_it_is_offered_again() {
        let all: Vec<u8> = (0..=255).collect();
        for (begin, at_once) in [(0, 256), (1, 256), (15, 256), (254, 256), (255, 256), (15, 10), (10, 10), (100, 7)] {
            let address = all.as_ptr().addr() + begin;
            let mut gathered = Gathered::new(b"taken".to_vec(), MOST_BYTES, Some(address));
            let mut sent = 0;
            let kept = loop {
                let offered = &all[sent..all.len().min(sent + at_once)];
                let (first, second) = offered.split_at(offered.len() / 2);
                let vectors = [first, second].map(|part| libc::iovec {
                    iov_base: part.as_ptr().cast::<c_void>().cast_mut(),
                    iov_len: part.len(),
                });
                match gathered.gather(&vectors) {
                    -1 => break gathered.complete(5),
                    taken => sent += taken as usize,
                }
            };
            assert_eq!(kept.unwrap(), [b"taken", &all[begin..]].concat(), "from {begin}, {at_once} at once");
        }
        let mut gathered = Gathered::new(Vec::new(), MOST_BYTES, Some(1));
        let one = libc::iovec { iov_base: all.as_ptr().cast::<c_void>().cast_mut(), iov_len: 1 };
        assert_eq!(gathered.gather(&[one]), -1);
        assert_eq!(gathered.complete(0), None, "it is not known where to go on");
    }

    #[test]
    fn what_is_too_much_is_not_kept() {
        let all = vec![0; MOST_BYTES + 1];
        assert_eq!(gathered(&all, MOST_BYTES / 3), None);
        assert!(gathered(&all[1..], MOST_BYTES / 3).is_some());
    }
}
