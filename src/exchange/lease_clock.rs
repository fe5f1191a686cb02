//! Whether this node may answer its clients: for as long as its lease lasts. Every write of the server to a connection asks here
//! (`server/intercepted_writes.rs`), on the main thread or on an I/O thread. So a process that stood still cannot answer when it goes on, whatever it
//! was in the middle of.
//!
//! Once the lease has passed, no client that was connected until then is ever answered: those clients are closed, and read and wrote at a
//! node that did not lead any more. Clients that come later are told what the node has become.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use durability_leadership::Moment;
use rustix::time::{clock_gettime, ClockId};

use crate::decide::gate::ClientId;
use crate::exchange::Shared;

/// The lease that this node was granted.
#[derive(Default)]
struct Lease {
    /// When it ends; `None` if none was granted, or it is over.
    granted: Option<Moment>,
    /// Whether the node leads by it, so that it may answer only for as long as the lease lasts.
    is_kept: bool,
}

static LEASE: Mutex<Lease> = Mutex::new(Lease { granted: None, is_kept: false });
/// The [`Moment`] at which the lease passes. Changes only while [`LEASE`] is locked, but for a forked child.
static UNTIL: AtomicU64 = AtomicU64::new(Moment::NEVER.0);
/// Once it has passed, clients with an id beyond this are answered.
static LAST_CLIENT: AtomicU64 = AtomicU64::new(ClientId::MAX);

/// A reply did not leave, so its client must be closed whatever becomes of the lease.
static WAS_REFUSED: AtomicBool = AtomicBool::new(false);
/// Has what wakes the main thread.
static SHARED: Mutex<Option<Arc<Shared>>> = Mutex::new(None);

/// Now. The clock goes on while the machine is suspended.
#[inline]
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    Moment((time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64))
}

/// The moment that lies `age` before now.
pub fn before(age: Duration) -> Moment {
    Moment(now().0.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)))
}

/// A lease was granted to this node, until then. The node is bound by it once it leads ([`keep_to_it`]). Any thread.
pub fn begin(until: Moment) {
    *lease() = Lease { granted: Some(until), is_kept: false };
}

/// This node leads: from now on nothing leaves once the lease has passed. If the lease was lost on the way there, nothing leaves at all.
/// Main thread.
pub fn keep_to_it() {
    let mut lease = lease();
    lease.is_kept = true;
    UNTIL.store(lease.granted.unwrap_or(Moment::ALWAYS).0, Ordering::Release);
}

/// The lease is extended to `until`; nothing happens if the node has none any more. Any thread.
pub fn set(until: Moment) {
    let mut lease = lease();
    if let Some(granted) = &mut lease.granted {
        *granted = until;
        if lease.is_kept {
            UNTIL.store(until.0, Ordering::Release);
        }
    }
}

/// Another node leads, or may lead: if this one led, nothing leaves any more. Any thread.
pub fn lost() {
    let mut lease = lease();
    if std::mem::take(&mut *lease).is_kept {
        UNTIL.store(Moment::ALWAYS.0, Ordering::Release);
    }
}

/// This node does not come to lead after all. Any thread.
pub fn put_off() {
    let mut lease = lease();
    if !lease.is_kept {
        lease.granted = None;
    }
}

/// What this node serves has nothing to do with the log any more. Any thread.
pub fn not_needed() {
    let mut lease = lease();
    *lease = Lease::default();
    UNTIL.store(Moment::NEVER.0, Ordering::Release);
}

fn lease() -> MutexGuard<'static, Lease> {
    LEASE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What tests/failover must notice: a lease that never passes.
const IS_BROKEN: bool = cfg!(feature = "broken-lease");

/// Whether the lease has passed. Any thread.
#[inline]
pub fn has_passed() -> bool {
    let until = UNTIL.load(Ordering::Acquire);
    until != Moment::NEVER.0 && now().0 >= until && !IS_BROKEN
}

/// Whether what happens at this node may be told to anybody: not once its lease has passed, until the main thread has seen that. Any thread.
pub fn may_tell_anybody() -> bool {
    !has_passed() || LAST_CLIENT.load(Ordering::Acquire) != ClientId::MAX
}

/// In how many milliseconds the lease passes; 0 once it has, -1 if this node needs none or has one that does not expire. Any thread.
pub fn left_ms() -> i64 {
    match UNTIL.load(Ordering::Acquire) {
        until if until == Moment::NEVER.0 => -1,
        until => (until.saturating_sub(now().0) / 1_000_000) as i64,
    }
}

/// Clients with an id beyond `last`, the newest one's, may be answered although the lease has passed. Main thread.
pub fn answer_beyond(last: ClientId) {
    LAST_CLIENT.store(last, Ordering::Release);
}

/// Nobody is answered once the lease has passed. What was refused before belongs to a time that is over. Main thread.
pub fn answer_nobody_beyond_it() {
    LAST_CLIENT.store(ClientId::MAX, Ordering::Release);
    WAS_REFUSED.store(false, Ordering::Release);
}

/// This process is a child that the server has forked to send a full copy to a replica. It does not lead, and nobody renews its copy of the
/// lease. Only stores to an atomic, as a forked child may.
pub fn child_needs_none() {
    UNTIL.store(Moment::NEVER.0, Ordering::Release);
}

/// The main thread of `shared` is woken when a reply is refused. Main thread, when the module is loaded.
pub fn tell(shared: Option<Arc<Shared>>) {
    *SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = shared;
}

/// Whether that client may be answered although the lease has passed. If not, the main thread is woken. Any thread.
#[cold]
pub fn lets_answer_beyond(client: ClientId) -> bool {
    if client > LAST_CLIENT.load(Ordering::Acquire) {
        return true;
    }
    let shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(shared) = &*shared else { return false };
    if client == shared.tap_client.load(Ordering::Relaxed) {
        // The log judges by itself what it takes.
        return true;
    }
    if !WAS_REFUSED.swap(true, Ordering::AcqRel) {
        shared.main_waker.wake();
    }
    false
}

/// Whether a reply was refused since the last time this was asked. Main thread.
pub fn has_refused() -> bool {
    WAS_REFUSED.load(Ordering::Acquire) && WAS_REFUSED.swap(false, Ordering::AcqRel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lets_answer(client: ClientId) -> bool {
        !has_passed() || lets_answer_beyond(client)
    }

    /// All in one, as there is one lease in a process.
    #[test]
    fn nobody_who_was_connected_when_the_lease_passed_is_answered() {
        let (ahead, behind) = (now().plus(Duration::from_secs(3600)), now());
        assert!(lets_answer(1) && !has_passed(), "no lease is needed");
        begin(behind);
        assert!(lets_answer(1), "the node does not lead yet");
        set(ahead);
        keep_to_it();
        assert!(lets_answer(1) && !has_passed());
        set(behind);
        assert!(has_passed() && !lets_answer(1) && !may_tell_anybody());
        answer_beyond(5);
        assert!(!lets_answer(5) && lets_answer(6) && may_tell_anybody());
        set(ahead);
        assert!(lets_answer(5), "it is renewed, so nobody else has led");

        lost();
        set(ahead);
        assert!(has_passed() && !lets_answer(5) && lets_answer(6), "a late renewal changes nothing");
        begin(ahead);
        put_off();
        keep_to_it();
        assert!(has_passed() && !lets_answer(5), "what is lost stays lost");
        begin(ahead);
        answer_nobody_beyond_it();
        keep_to_it();
        assert!(lets_answer(1));
        set(behind);
        assert!(!lets_answer(6));
        not_needed();
        assert!(lets_answer(1));
        begin(ahead);
        lost();
        keep_to_it();
        assert!(!lets_answer(1), "it was lost before the node led");
        not_needed();
        assert!(lets_answer(1));
        lost();
        set(behind);
        assert!(lets_answer(1), "what comes late from an epoch that is over changes nothing");
    }
}
