//! The server's tables of functions for its kinds of connections, in which the module puts functions of its own: for writing
//! (`server/intercepted_writes.rs`), for reading (`server/read_pause.rs`), for connecting (`server/named_link.rs`) and for addresses
//! (`server/hidden_replica.rs`).
//!
//! This file alone reads and writes those tables. What a table held before the module changed anything in it is kept for the life of the
//! process: it is what the module's functions call, and what goes back into the table. Unix-socket connections have a table of their own, but
//! write and read through the functions of TCP.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::OnceLock;

use crate::server::internals::Internals;
use crate::server::structs::{
    AddressFunction, CloseFunction, ConnectFunction, ConnectionType, PostponeFunction, ReadFunction,
    SetWriteHandlerFunction, WriteFunction, WritevFunction,
};

/// The kind of TCP connections.
pub const TCP: usize = 0;
/// The kind of TLS connections.
pub const TLS: usize = 1;

/// One of the server's tables.
struct Table {
    live: *mut ConnectionType,
    /// What it held before the module changed anything.
    original: ConnectionType,
}
// SAFETY: `live` points to a static of the server, which is never freed; `original` is not changed. The server calls these functions from
// any of its threads.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

/// By kind. Kept across an unload of the module: what a table held before the first load is what belongs there.
static TABLES: [OnceLock<Table>; 2] = [const { OnceLock::new() }; 2];

/// Keeps what the server's tables hold, unless an earlier life of the module has done so. Main thread, before any of them is changed.
pub fn save(internals: &Internals) {
    let [tcp, tls, _] = internals.types();
    for (kind, live) in [(TCP, tcp), (TLS, tls)] {
        if !live.is_null() {
            // SAFETY: the server's live table of that kind, which the module has not changed.
            TABLES[kind].get_or_init(|| Table { live, original: unsafe { ptr::read(live) } });
        }
    }
}

/// The server's own functions for that kind of connections. Any thread.
pub fn original<const KIND: usize>() -> &'static ConnectionType {
    match TABLES[KIND].get() {
        Some(table) => &table.original,
        // A function of the module is put into a table only after its originals are kept.
        None => std::process::abort(),
    }
}

/// Functions of the module that take the place of the server's for writing.
pub struct WriteFunctions {
    /// [`ConnectionType::write`].
    pub write: WriteFunction,
    /// [`ConnectionType::writev`].
    pub writev: WritevFunction,
    /// [`ConnectionType::set_write_handler`].
    pub set_write_handler: SetWriteHandlerFunction,
    /// [`ConnectionType::shutdown`].
    pub shutdown: CloseFunction,
    /// [`ConnectionType::close`].
    pub close: CloseFunction,
    /// [`ConnectionType::postpone_update_state`].
    pub postpone_update_state: PostponeFunction,
}

/// Puts functions for writing in place. Main thread, after [`save`], with I/O threads idle or not: they meet old and new functions mixed.
pub fn put_write_functions<const KIND: usize>(functions: &WriteFunctions) {
    let Some(Table { live, .. }) = TABLES[KIND].get() else { return };
    // SAFETY: the server's live table, which is never freed.
    unsafe {
        put(&raw mut (**live).write, functions.write);
        put(&raw mut (**live).writev, functions.writev);
        put(&raw mut (**live).set_write_handler, functions.set_write_handler);
        put(&raw mut (**live).shutdown, functions.shutdown);
        put(&raw mut (**live).close, functions.close);
        put(&raw mut (**live).postpone_update_state, Some(functions.postpone_update_state));
    }
}

/// Has unix-socket connections call `postpone`: every other function in their table is that of TCP. Main thread.
pub fn put_unix_postpone_function(internals: &Internals, postpone: PostponeFunction) {
    let [_, _, unix] = internals.types();
    if !unix.is_null() {
        // SAFETY: the server's live table, which is never freed.
        unsafe { put(&raw mut (*unix).postpone_update_state, Some(postpone)) };
    }
}

/// Puts the server's own functions for writing back. Main thread.
pub fn restore_write_functions() {
    for Table { live, original } in TABLES.iter().filter_map(OnceLock::get) {
        // SAFETY: the server's live table, which is never freed.
        unsafe {
            put(&raw mut (**live).write, original.write);
            put(&raw mut (**live).writev, original.writev);
            put(&raw mut (**live).set_write_handler, original.set_write_handler);
            put(&raw mut (**live).shutdown, original.shutdown);
            put(&raw mut (**live).close, original.close);
            // Where there was none, the new one stays, as an I/O thread may be about to call it. It does no harm.
            if original.postpone_update_state.is_some() {
                put(&raw mut (**live).postpone_update_state, original.postpone_update_state);
            }
        }
    }
}

/// Puts a function for reading in place. Main thread, after [`save`].
pub fn put_read_function<const KIND: usize>(read: ReadFunction) {
    if let Some(Table { live, .. }) = TABLES[KIND].get() {
        // SAFETY: the server's live table, which is never freed.
        unsafe { put(&raw mut (**live).read, read) };
    }
}

/// Puts the server's own functions for reading back. Main thread.
pub fn restore_read_functions() {
    for Table { live, original } in TABLES.iter().filter_map(OnceLock::get) {
        // SAFETY: the server's live table, which is never freed.
        unsafe { put(&raw mut (**live).read, original.read) };
    }
}

/// Puts a function in place that tells the addresses of TCP connections. Main thread, after [`save`].
pub fn put_address_function(address: AddressFunction) {
    if let Some(Table { live, .. }) = TABLES[TCP].get() {
        // SAFETY: the server's live table, which is never freed.
        unsafe { put(&raw mut (**live).address, address) };
    }
}

/// Puts the server's own function that tells addresses back. Main thread.
pub fn restore_address_function() {
    if let Some(Table { live, original }) = TABLES[TCP].get() {
        // SAFETY: the server's live table, which is never freed.
        unsafe { put(&raw mut (**live).address, original.address) };
    }
}

/// Puts a function in place by which the server connects over TLS. Main thread, after [`save`].
pub fn put_tls_connect_function(connect: ConnectFunction) {
    if let Some(Table { live, .. }) = TABLES[TLS].get() {
        // SAFETY: the server's live table, which is never freed.
        unsafe { put(&raw mut (**live).connect, connect) };
    }
}

/// Puts the server's own function for connecting over TLS back. Main thread.
pub fn restore_tls_connect_function() {
    if let Some(Table { live, original }) = TABLES[TLS].get() {
        // SAFETY: the server's live table, which is never freed.
        unsafe { put(&raw mut (**live).connect, original.connect) };
    }
}

/// Writes a function pointer so that a thread that reads it at the same time sees the old one or the new one.
///
/// # Safety
/// `place` is valid for as long as the process runs, and holds a function pointer or `None` of one.
unsafe fn put<F: Copy>(place: *mut F, function: F) {
    const { assert!(size_of::<F>() == size_of::<*mut ()>() && align_of::<F>() == align_of::<*mut ()>()) };
    // SAFETY: by contract; the sizes are the same, and every function pointer is a pointer.
    unsafe {
        let function = std::mem::transmute_copy::<F, *mut ()>(&function);
        AtomicPtr::from_ptr(place.cast::<*mut ()>()).store(function, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::{c_int, c_void};

    use super::*;
    use crate::server::structs::Connection;

    unsafe extern "C" fn one(_: *mut Connection, _: *const c_void, _: usize) -> c_int {
        1
    }

    unsafe extern "C" fn two(_: *mut Connection, _: *const c_void, _: usize) -> c_int {
        2
    }

    #[test]
    fn a_function_that_is_put_in_place_is_called_from_there() {
        let mut place: WriteFunction = one;
        // SAFETY: `place` lives, and holds a function pointer.
        unsafe { put(&raw mut place, two as WriteFunction) };
        // SAFETY: the functions use none of their arguments.
        assert_eq!(unsafe { place(ptr::null_mut(), ptr::null(), 0) }, 2);
        let mut place: Option<WriteFunction> = None;
        // SAFETY: as above.
        unsafe { put(&raw mut place, Some(one as WriteFunction)) };
        assert!(place.is_some());
        // SAFETY: as above.
        unsafe { put(&raw mut place, None) };
        assert!(place.is_none());
    }
}
