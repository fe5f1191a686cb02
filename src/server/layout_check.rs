//! Whether the server's connections are the ones that `internals.rs` mirrors: found out by using one, over a socket of the module's own.
//!
//! In a version that this release was tried with, that is done at once. In any other, it is first done in a child process, where a call of what
//! is another function by now harms nothing. What this leaves out, the self-test (`agent/self_test.rs`) does with a client.

use std::ffi::c_int;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::OnceLock;
use std::time::Duration;

use crate::server::internals::Internals;
use crate::server::structs::{Connection, ConnectionType, CLOSED, CONNECTED};
use crate::server::version::Version;

/// `CONN_STATE_ACCEPTING`, a [`Connection::state`]: a socket was accepted, and nothing more.
const ACCEPTING: c_int = 2;
/// The server's functions answer at once. Longer than this, one of them waits for something.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// A child that takes longer is ended.
const CHILD_SECONDS: u32 = 3;

/// Found out once: what is loaded stays the same while the process lasts.
static VERIFIED: OnceLock<Result<(), String>> = OnceLock::new();

/// Whether connections work as those of Valkey 9.1. The first call is the main thread's, while the module loads and before it has changed
/// anything; later ones any thread's.
///
/// # Errors
/// What is different, for the user to read.
pub fn verified(internals: &Internals) -> Result<(), &'static str> {
    let verify = || {
        let [tcp, _, _] = internals.types();
        if !Version::of_server().is_tried() {
            in_a_child(|| try_out(tcp))?;
        }
        try_out(tcp)
    };
    let said = |what| format!("this server's connections are not those of Valkey 9.1 ({what})");
    match VERIFIED.get_or_init(|| verify().map_err(said)) {
        Ok(()) => Ok(()),
        Err(what) => Err(what),
    }
}

/// Runs the check in a copy of this process.
fn in_a_child(check: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let no_child = |error: io::Error| format!("it cannot be tried out in a child process: {error}");
    let (mut ours, mut childs) = UnixStream::pair().map_err(no_child)?;
    // SAFETY: the child runs only the check, which crashes at worst, and ends without returning to the server.
    match unsafe { libc::fork() } {
        -1 => Err(no_child(io::Error::last_os_error())),
        0 => {
            die_quietly();
            let why = catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|_| Err("it panicked".to_owned()));
            let told = childs.write_all(why.err().unwrap_or_default().as_bytes());
            // SAFETY: ends the process, without what its parent has registered for its own end.
            unsafe { libc::_exit(c_int::from(told.is_err())) }
        }
        child => {
            drop(childs);
            let mut why = String::new();
            let read = ours.read_to_string(&mut why);
            let ended_well = end_of(child) == Some(0) && read.is_ok();
            match (ended_well, why.is_empty()) {
                (true, true) => Ok(()),
                (true, false) => Err(why),
                (false, _) => Err("using one crashes a child process that tries it".to_owned()),
            }
        }
    }
}

/// Undoes in a child what its parent has prepared for a crash: a report in the server's log, and a core. Bounds how long it runs.
fn die_quietly() {
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: changes how this process takes signals, which is a child that nobody else knows.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core);
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGALRM] {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::alarm(CHILD_SECONDS);
    }
}

/// Waits for that child. Returns its exit code; none if a signal has ended it.
fn end_of(child: libc::pid_t) -> Option<c_int> {
    let mut status = 0;
    loop {
        // SAFETY: fills `status`.
        match unsafe { libc::waitpid(child, &raw mut status, 0) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return None,
            _ => return libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        }
    }
}

/// Leaves a mark in the connection that it is called with.
unsafe extern "C" fn accepted(connection: *mut Connection) {
    // SAFETY: the server calls this with the connection that was accepted. Nothing follows this pointer.
    unsafe { (*connection).private_data = connection.cast() };
}

fn try_out(kind: *mut ConnectionType) -> Result<(), String> {
    if kind.is_null() {
        return Err("there are none of TCP".to_owned());
    }
    let (mut peer, servers) = UnixStream::pair().map_err(|error| format!("no sockets to try one with: {error}"))?;
    let timeout = peer.set_read_timeout(Some(ANSWER_TIMEOUT));
    timeout.map_err(|error| format!("no sockets to try one with: {error}"))?;
    let socket = servers.into_raw_fd();
    // SAFETY: the table is the server's. If it is not what the struct says, this is a child, or a version in which it was before.
    let connection = unsafe { ((*kind).create_accepted)(socket, ptr::null_mut()) };
    if connection.is_null() {
        return Err("none is made of a socket".to_owned());
    }
    let steps: [(&str, Step); 7] = [
        ("its fields", fields),
        ("accepting", accept),
        ("its address", address),
        ("writing", write),
        ("reading", read),
        ("the end of what the other end sends", end),
        ("closing", close),
    ];
    for (what, step) in steps {
        // SAFETY: as above; the connection lives until the last step.
        if !unsafe { step(kind, connection, socket, &mut peer) }.unwrap_or(false) {
            return Err(format!("{what} went wrong"));
        }
    }
    Ok(())
}

/// Whether a part of what connections do is as it is in Valkey 9.1. An I/O error is no either.
///
/// # Safety
/// The connection lives, is of that kind, and is nobody else's; its socket is the other end of the stream.
type Step = unsafe fn(*mut ConnectionType, *mut Connection, c_int, &mut UnixStream) -> io::Result<bool>;

unsafe fn fields(
    kind: *mut ConnectionType,
    connection: *mut Connection,
    socket: c_int,
    _: &mut UnixStream,
) -> io::Result<bool> {
    // SAFETY: by contract.
    let it = unsafe { &*connection };
    let is_bare = it.private_data.is_null() && it.read_handler.is_none() && it.write_handler.is_none();
    Ok(is_bare && it.kind == kind && it.state == ACCEPTING && it.fd == socket && it.flags == 0)
}

unsafe fn accept(
    kind: *mut ConnectionType,
    connection: *mut Connection,
    _: c_int,
    _: &mut UnixStream,
) -> io::Result<bool> {
    // SAFETY: by contract. Handlers that are none already are taken without any effect.
    unsafe {
        let answers = [
            ((*kind).accept)(connection, Some(accepted)),
            ((*kind).set_read_handler)(connection, None),
            ((*kind).set_write_handler)(connection, None, 0),
        ];
        let is_marked = std::mem::replace(&mut (*connection).private_data, ptr::null_mut()) == connection.cast();
        Ok(answers == [0; 3] && (*connection).state == CONNECTED && is_marked)
    }
}

unsafe fn address(
    kind: *mut ConnectionType,
    connection: *mut Connection,
    _: c_int,
    _: &mut UnixStream,
) -> io::Result<bool> {
    let (mut text, mut port) = ([1; 46], -1);
    // SAFETY: by contract; the buffer is that long.
    let answer = unsafe {
        ((*kind).address)(connection, text.as_mut_ptr().cast(), text.len(), &raw mut port, c_int::from(true))
    };
    Ok(answer == 0 && text.starts_with(b"/unixsocket\0") && port == 0)
}

unsafe fn write(
    kind: *mut ConnectionType,
    connection: *mut Connection,
    _: c_int,
    peer: &mut UnixStream,
) -> io::Result<bool> {
    let parts = [b"in two ".as_slice(), b"buffers".as_slice()];
    let vectors = parts.map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
    // SAFETY: by contract; the buffers live until both calls have returned, and are only read.
    let answers = unsafe {
        [
            ((*kind).write)(connection, b"in one, ".as_ptr().cast(), 8),
            ((*kind).writev)(connection, vectors.as_ptr(), vectors.len() as c_int),
        ]
    };
    let mut arrived = [0; 22];
    peer.read_exact(&mut arrived)?;
    Ok(answers == [8, 14] && &arrived == b"in one, in two buffers")
}

unsafe fn read(
    kind: *mut ConnectionType,
    connection: *mut Connection,
    _: c_int,
    peer: &mut UnixStream,
) -> io::Result<bool> {
    peer.write_all(b"back")?;
    let mut taken = [0; 8];
    // SAFETY: by contract; the buffer is that long.
    let answer = unsafe { ((*kind).read)(connection, taken.as_mut_ptr().cast(), taken.len()) };
    Ok(answer == 4 && taken.starts_with(b"back\0"))
}

unsafe fn end(
    kind: *mut ConnectionType,
    connection: *mut Connection,
    _: c_int,
    peer: &mut UnixStream,
) -> io::Result<bool> {
    peer.shutdown(Shutdown::Write)?;
    let mut byte = [0_u8];
    // SAFETY: by contract; the buffer is that long.
    unsafe {
        let answer = ((*kind).read)(connection, byte.as_mut_ptr().cast(), byte.len());
        Ok(answer == 0 && (*connection).state == CLOSED)
    }
}

unsafe fn close(
    kind: *mut ConnectionType,
    connection: *mut Connection,
    socket: c_int,
    peer: &mut UnixStream,
) -> io::Result<bool> {
    // SAFETY: by contract.
    unsafe { ((*kind).shutdown)(connection) };
    let is_open = is_open(socket);
    let says_nothing_more = peer.read(&mut [0])? == 0;
    // SAFETY: by contract; nobody uses the connection after this.
    unsafe { ((*kind).close)(connection) };
    Ok(is_open && says_nothing_more && !self::is_open(socket))
}

fn is_open(socket: c_int) -> bool {
    // SAFETY: only asks for a number.
    unsafe { libc::fcntl(socket, libc::F_GETFD) != -1 }
}

#[cfg(test)]
#[path = "layout_check_tests.rs"]
mod tests;
