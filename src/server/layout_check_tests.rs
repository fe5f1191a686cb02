//! Servers that are made up: one as Valkey 9.1, and some in which a thing is different.

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::*;
use crate::server::structs::ConnectionHandler;

unsafe extern "C" fn create_accepted(socket: c_int, kind: *mut c_void) -> *mut Connection {
    let connection = Box::into_raw(Box::new(MaybeUninit::<Connection>::zeroed())).cast::<Connection>();
    // SAFETY: all fields may be zero; the caller frees it.
    unsafe {
        (*connection).kind = kind.cast();
        (*connection).state = ACCEPTING;
        (*connection).fd = socket;
    }
    connection
}

unsafe extern "C" fn accept(connection: *mut Connection, handler: ConnectionHandler) -> c_int {
    // SAFETY: the check passes a connection of its own, and a handler.
    unsafe {
        (*connection).state = CONNECTED;
        handler.expect("a handler")(connection);
    }
    0
}

unsafe extern "C" fn address(_: *mut Connection, text: *mut c_char, _: usize, port: *mut c_int, _: c_int) -> c_int {
    // SAFETY: as the check says.
    unsafe {
        text.copy_from_nonoverlapping(c"/unixsocket".as_ptr(), 12);
        *port = 0;
    }
    0
}

unsafe extern "C" fn write(connection: *mut Connection, bytes: *const c_void, length: usize) -> c_int {
    // SAFETY: as the check says.
    unsafe { libc::write((*connection).fd, bytes, length) as c_int }
}

unsafe extern "C" fn writev(connection: *mut Connection, vectors: *const libc::iovec, count: c_int) -> c_int {
    // SAFETY: as the check says.
    unsafe { libc::writev((*connection).fd, vectors, count) as c_int }
}

unsafe extern "C" fn read(connection: *mut Connection, bytes: *mut c_void, length: usize) -> c_int {
    // SAFETY: as the check says.
    unsafe {
        let answer = libc::read((*connection).fd, bytes, length) as c_int;
        if answer == 0 {
            (*connection).state = CLOSED;
        }
        answer
    }
}

unsafe extern "C" fn set_read_handler(_: *mut Connection, _: ConnectionHandler) -> c_int {
    0
}

unsafe extern "C" fn set_write_handler(_: *mut Connection, _: ConnectionHandler, _: c_int) -> c_int {
    0
}

unsafe extern "C" fn shutdown(connection: *mut Connection) {
    // SAFETY: as the check says.
    unsafe { libc::shutdown((*connection).fd, libc::SHUT_RDWR) };
}

unsafe extern "C" fn close(connection: *mut Connection) {
    // SAFETY: as the check says: nobody uses it after this.
    unsafe {
        libc::close((*connection).fd);
        drop(Box::from_raw(connection.cast::<MaybeUninit<Connection>>()));
    }
}

/// A table as that of Valkey 9.1, in which `change` has been made. It is never freed.
fn table(change: impl FnOnce(*mut ConnectionType)) -> *mut ConnectionType {
    let kind = Box::into_raw(Box::new(MaybeUninit::<ConnectionType>::zeroed())).cast::<ConnectionType>();
    unsafe extern "C" fn made(socket: c_int, _: *mut c_void) -> *mut Connection {
        // SAFETY: as the check says.
        unsafe { create_accepted(socket, KIND.load(Ordering::Relaxed).cast()) }
    }
    // SAFETY: the place is large enough; all functions that the check uses are set.
    unsafe {
        (&raw mut (*kind).create_accepted).write(made);
        (&raw mut (*kind).accept).write(accept);
        (&raw mut (*kind).address).write(address);
        (&raw mut (*kind).write).write(write);
        (&raw mut (*kind).writev).write(writev);
        (&raw mut (*kind).read).write(read);
        (&raw mut (*kind).set_read_handler).write(set_read_handler);
        (&raw mut (*kind).set_write_handler).write(set_write_handler);
        (&raw mut (*kind).shutdown).write(shutdown);
        (&raw mut (*kind).close).write(close);
    }
    KIND.store(kind, Ordering::Relaxed);
    change(kind);
    kind
}

/// The table in use: one test at a time.
static KIND: AtomicPtr<ConnectionType> = AtomicPtr::new(ptr::null_mut());

/// In a child, as one of them crashes.
fn verdict(change: impl FnOnce(*mut ConnectionType)) -> Result<(), String> {
    let kind = table(change);
    in_a_child(|| try_out(kind))
}

#[test]
fn connections_are_taken_if_they_are_those_of_9_1_and_nothing_else() {
    assert_eq!(verdict(|_| ()), Ok(()));

    // A field has moved.
    unsafe extern "C" fn moved(socket: c_int, _: *mut c_void) -> *mut Connection {
        // SAFETY: as the check says.
        unsafe {
            let connection = create_accepted(socket, KIND.load(Ordering::Relaxed).cast());
            ((*connection).fd, (*connection).state) = ((*connection).state, (*connection).fd);
            connection
        }
    }
    // SAFETY: the table lives.
    assert_eq!(verdict(|kind| unsafe { (*kind).create_accepted = moved }), Err("its fields went wrong".to_owned()));

    // Two functions have changed places.
    unsafe extern "C" fn neither(_: *mut Connection, _: *const libc::iovec, _: c_int) -> c_int {
        -1
    }
    // SAFETY: the table lives.
    assert_eq!(verdict(|kind| unsafe { (*kind).writev = neither }), Err("writing went wrong".to_owned()));

    unsafe extern "C" fn has_none(_: *mut Connection, _: *mut c_char, _: usize, _: *mut c_int, _: c_int) -> c_int {
        -1
    }
    // SAFETY: the table lives.
    assert_eq!(verdict(|kind| unsafe { (*kind).address = has_none }), Err("its address went wrong".to_owned()));

    unsafe extern "C" fn leaves_open(_: *mut Connection) {}
    // SAFETY: the table lives.
    assert_eq!(verdict(|kind| unsafe { (*kind).close = leaves_open }), Err("closing went wrong".to_owned()));

    unsafe extern "C" fn crashes(_: *mut Connection, _: *mut c_void, _: usize) -> c_int {
        // SAFETY: ends the process.
        unsafe { libc::raise(libc::SIGSEGV) }
    }
    // SAFETY: the table lives.
    let crash = verdict(|kind| unsafe { (*kind).read = crashes });
    assert_eq!(crash, Err("using one crashes a child process that tries it".to_owned()));

    assert_eq!(in_a_child(|| panic!("on purpose")), Err("it panicked".to_owned()));
}
