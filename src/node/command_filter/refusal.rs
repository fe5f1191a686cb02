//! What the command filter refuses at the moment, and the error that a refused command is answered with. Main thread only.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};

use crate::decide::queued_writes::Transactions;

/// What is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing.
    Nothing,
    /// Commands that would take this node away from its log: REPLICAOF, FAILOVER.
    RoleChanges,
    /// The same, and writes. Clients that can be redirected are sent to the leader.
    Redirectable,
    /// Commands that would take this node away; commands that change data may be refused soon.
    WritesSoon,
    /// Commands that would take this node away, and those that change data.
    Writes,
    /// Everything that a loading server would refuse, with that error.
    Data(String),
}

/// Level of [`Refusal::Nothing`].
pub const NOTHING: u8 = 0;
/// Level of [`Refusal::RoleChanges`].
pub const ROLE_CHANGES: u8 = 1;
/// Level of [`Refusal::Redirectable`].
pub const REDIRECTABLE: u8 = 2;
/// Level of [`Refusal::WritesSoon`].
pub const WRITES_SOON: u8 = 3;
/// Level of [`Refusal::Writes`].
pub const WRITES: u8 = 4;
/// Level of [`Refusal::Data`].
pub const DATA: u8 = 5;

static LEVEL: AtomicU8 = AtomicU8::new(NOTHING);
/// How many commands were refused.
pub static REFUSED_COMMANDS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The error for the next command that was refused by itself.
    static NEXT_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
    /// The error for all commands that touch data.
    static DATA_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
    /// Kept while writes are refused, or may be soon.
    static TRANSACTIONS: RefCell<Transactions> = RefCell::default();
}

/// Forgets what an earlier life of the module knew: the library stays mapped when the module is unloaded.
pub fn forget_all() {
    LEVEL.store(NOTHING, Ordering::Relaxed);
    REFUSED_COMMANDS.store(0, Ordering::Relaxed);
    NEXT_ERROR.take();
    DATA_ERROR.take();
    TRANSACTIONS.with_borrow_mut(Transactions::forget);
}

/// Changes what is refused.
pub fn set(refusal: Refusal) {
    let level = match refusal {
        Refusal::Nothing => NOTHING,
        Refusal::RoleChanges => ROLE_CHANGES,
        Refusal::Redirectable => REDIRECTABLE,
        Refusal::WritesSoon => WRITES_SOON,
        Refusal::Writes => WRITES,
        Refusal::Data(error) => {
            DATA_ERROR.set(error);
            DATA
        }
    };
    if !keeps_transactions(level) {
        TRANSACTIONS.with_borrow_mut(Transactions::forget);
    }
    LEVEL.store(level, Ordering::Relaxed);
}

/// How much is refused now.
#[inline]
pub fn level() -> u8 {
    LEVEL.load(Ordering::Relaxed)
}

fn keeps_transactions(level: u8) -> bool {
    (WRITES_SOON..=WRITES).contains(&level)
}

/// The transactions in which writes were queued.
pub fn transactions<R>(work: impl FnOnce(&mut Transactions) -> R) -> R {
    TRANSACTIONS.with_borrow_mut(work)
}

/// The error of [`Refusal::Data`].
pub fn data_error() -> String {
    DATA_ERROR.with_borrow(String::clone)
}

/// Sets what [`take_next_error`] returns.
pub fn set_next_error(error: String) {
    NEXT_ERROR.set(error);
}

/// The error for the command that was just refused; empty if none was.
pub fn take_next_error() -> String {
    NEXT_ERROR.take()
}
