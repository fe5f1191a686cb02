//! The server's queue of commands that go into the replication stream when the command that runs is done. Its place in the server's
//! memory is not exported, so it is found by a change that the module makes there.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use valkey_module::raw;

use crate::server::foreign_memory::read_foreign;

/// `PROPAGATE_AOF | PROPAGATE_REPL`: what is propagated goes to the AOF and to replicas.
pub const PROPAGATE_ALL: c_int = 1 | 2;
/// Stands for no cluster slot.
pub const NO_SLOT: c_int = -1;

/// How far into `server` the search goes, in words.
const SERVER_WORDS: usize = 16 << 10;

/// `serverOpArray`.
#[repr(C)]
struct OperationQueue {
    operations: *const Operation,
    count: c_int,
    capacity: c_int,
}

/// `serverOp`.
#[repr(C)]
struct Operation {
    argv: *const *mut raw::RedisModuleString,
    argc: c_int,
    database: c_int,
    target: c_int,
    slot: c_int,
}

/// Knows how many commands the queue holds, once it has found the queue. Main thread only.
pub struct StreamQueue {
    /// The server's global `server`, in which [`OperationQueue`] stands somewhere.
    server: *const c_void,
    /// [`OperationQueue::count`]; null until it is found.
    count: AtomicPtr<c_int>,
}

impl StreamQueue {
    /// The queue in the server's global `server`, not found yet.
    pub fn new(server: *const c_void) -> Self {
        StreamQueue { server, count: AtomicPtr::default() }
    }

    /// How many commands the queue holds; `None` until it is found.
    pub fn len(&self) -> Option<u32> {
        let count = self.count.load(Ordering::Relaxed);
        // SAFETY: null, or found in the server's static.
        (!count.is_null()).then(|| unsafe { *count } as u32)
    }

    /// Finds the queue by what changes when `put` puts the command `ping`, without arguments, into it. `flush` empties the queue again. The
    /// queue is empty before. Returns whether it is found.
    pub fn find(&self, ping: *mut raw::RedisModuleString, put: impl FnOnce(), flush: impl FnOnce()) -> bool {
        if self.len().is_some() {
            return true;
        }
        let before = self.server_words();
        put();
        let after = self.server_words();
        let is_queue = |word: &usize| {
            before[word + 1] as u32 == 0 && after[word + 1] as u32 == 1 && holds_only(after[*word], ping)
        };
        let found: Vec<usize> = (0..before.len().min(after.len()).saturating_sub(1)).filter(is_queue).collect();
        flush();
        if let [word] = found[..] {
            let queue = self.server.cast::<u64>().wrapping_add(word).cast::<OperationQueue>();
            let count = queue.wrapping_byte_add(std::mem::offset_of!(OperationQueue, count)).cast::<c_int>();
            let is_empty_again = read_foreign(count) == Some(0);
            if is_empty_again {
                self.count.store(count.cast_mut(), Ordering::Relaxed);
            }
        }
        self.len().is_some()
    }

    /// What stands in `server` and behind it, as far as that can be read.
    fn server_words(&self) -> Vec<u64> {
        const AT_ONCE: usize = 32;
        let words = self.server.cast::<[u64; AT_ONCE]>();
        (0..SERVER_WORDS / AT_ONCE).map_while(|at| read_foreign(words.wrapping_add(at))).flatten().collect()
    }
}

/// Whether one [`Operation`] stands at that address, with no argument but `ping`.
fn holds_only(address: u64, ping: *mut raw::RedisModuleString) -> bool {
    let address = address as usize;
    if address == 0 || !address.is_multiple_of(align_of::<Operation>()) {
        return false;
    }
    let operation = std::ptr::with_exposed_provenance::<Operation>(address);
    let field = |offset: usize| read_foreign::<c_int>(operation.wrapping_byte_add(offset).cast());
    let argv = read_foreign::<usize>(operation.cast()).map(std::ptr::with_exposed_provenance::<usize>);
    field(std::mem::offset_of!(Operation, argc)) == Some(1)
        && field(std::mem::offset_of!(Operation, database)) == Some(0)
        && field(std::mem::offset_of!(Operation, target)) == Some(PROPAGATE_ALL)
        && field(std::mem::offset_of!(Operation, slot)) == Some(NO_SLOT)
        && argv.and_then(read_foreign) == Some(ping.expose_provenance())
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    /// What stands for the server's `server`: a decoy that changes in the same way but holds another command, and the queue.
    #[repr(C)]
    struct Fake {
        before: [u64; 5],
        decoy: OperationQueue,
        queue: OperationQueue,
    }

    fn find(fake: &mut Fake, ping: usize, queued: usize, flushes: bool) -> bool {
        let ping: *mut raw::RedisModuleString = ptr::with_exposed_provenance_mut(ping);
        let queued: *mut raw::RedisModuleString = ptr::with_exposed_provenance_mut(queued);
        let other: *mut raw::RedisModuleString = ptr::with_exposed_provenance_mut(0x7000);
        let (argv, other_argv) = ([queued], [other]);
        let operation = |argv: *const *mut raw::RedisModuleString| {
            argv.expose_provenance();
            Operation { argv, argc: 1, database: 0, target: PROPAGATE_ALL, slot: NO_SLOT }
        };
        let (operation, decoy) = (operation(argv.as_ptr()), operation(other_argv.as_ptr()));
        let fake: *mut Fake = fake;
        let queue = StreamQueue::new(fake.cast());
        (&raw const operation).expose_provenance();
        (&raw const decoy).expose_provenance();
        // SAFETY: `fake` lives, and nothing else uses it meanwhile.
        let set = |count: c_int| unsafe {
            (*fake).queue = OperationQueue { operations: &raw const operation, count, capacity: 1 };
            (*fake).decoy = OperationQueue { operations: &raw const decoy, count, capacity: 1 };
        };
        let is_found = queue.find(ping, || set(1), || set(if flushes { 0 } else { 1 }));
        assert_eq!(queue.len(), is_found.then_some(0));
        is_found
    }

    #[test]
    fn the_queue_is_found_by_the_one_command_that_came_into_it() {
        let empty = || OperationQueue { operations: ptr::null(), count: 0, capacity: 0 };
        let mut fake = Fake { before: [0; 5], decoy: empty(), queue: empty() };
        assert!(find(&mut fake, 0x5000, 0x5000, true));
        let mut fake = Fake { before: [0; 5], decoy: empty(), queue: empty() };
        assert!(!find(&mut fake, 0x5000, 0x6000, true), "another command came");
        let mut fake = Fake { before: [0; 5], decoy: empty(), queue: empty() };
        assert!(!find(&mut fake, 0x5000, 0x5000, false), "it is not emptied");
    }
}
