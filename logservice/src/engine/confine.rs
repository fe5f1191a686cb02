//! Starts engines with few rights and bounded memory.
//!
//! No engine gains rights by what it executes (`no_new_privs`), writes a core file, or outlives this process. Where the system allows it, an
//! engine is in a user namespace of its own, in which it has no capability, and in a network namespace of its own, in which there is only a
//! loopback interface with one listener, that of its feed. The child itself makes that listener before it becomes valkey-server, and sends
//! it to this process, as a socket belongs to the namespace it is made in.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::thread::UnshareFlags;
use tokio::process::{Child, Command};

use super::flags::Isolation;
use super::EngineOptions;
use crate::base::background::give_way;

/// A process that was started.
pub struct Confined {
    /// The process.
    pub child: Child,
    /// A listener that it reaches at its address of 127.0.0.1. If it is isolated, nothing else reaches the listener.
    pub listener: TcpListener,
}

/// Namespaces that isolate a process, the strongest first.
const APART: [UnshareFlags; 2] = [UnshareFlags::NEWUSER.union(UnshareFlags::NEWNET), UnshareFlags::NEWNET];

/// Whether a log line has said that engines are not isolated.
static IS_TOLD: AtomicBool = AtomicBool::new(false);

/// Starts the program of `command`, with no more rights than an engine needs.
///
/// # Errors
/// It cannot be started, or cannot be isolated although that is required.
pub fn spawn(options: &EngineOptions, command: impl Fn() -> Command) -> io::Result<Confined> {
    if options.isolation == Isolation::Off {
        return spawn_among_others(options, command());
    }
    let mut first_error = None;
    for apart in APART {
        match spawn_apart(options, command(), apart) {
            Ok(confined) => return Ok(confined),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    let reason = first_error.map_or_else(String::new, |error| error.to_string());
    if options.isolation == Isolation::Require {
        let text = format!(
            "the system does not let it have a network of its own, which --engine-isolation require asks for: {reason}"
        );
        return Err(io::Error::other(text));
    }
    let confined = spawn_among_others(options, command())?;
    if !IS_TOLD.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "engines run without a network and user namespace of their own, as the system does not allow these: {reason}; \
             --engine-isolation off leaves this line out"
        );
    }
    Ok(confined)
}

fn spawn_among_others(options: &EngineOptions, mut command: Command) -> io::Result<Confined> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    prepare(&mut command, options);
    Ok(Confined { child: spawn_prepared(&mut command, options)?, listener })
}

fn spawn_apart(options: &EngineOptions, mut command: Command, apart: UnshareFlags) -> io::Result<Confined> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    prepare(&mut command, options);
    let parent = rustix::process::getpid();
    // SAFETY: called in the child between fork and exec; what it calls are system calls that are safe there, and allocate nothing.
    unsafe {
        command.pre_exec(move || {
            // SAFETY: the child has one thread, and shares no table of open files that others use.
            rustix::thread::unshare_unsafe(apart)?;
            // New credentials may have reset it.
            end_with_parent(parent)?;
            raise_loopback()?;
            send_listener(theirs.as_fd())
        });
    }
    let child = spawn_prepared(&mut command, options)?;
    // Closes the ends of the pair that the command holds, so that what has not arrived never does.
    drop(command);
    Ok(Confined { child, listener: receive_listener(ours.as_fd())? })
}

/// Restricts the child in the ways that do not depend on its namespaces.
fn prepare(command: &mut Command, options: &EngineOptions) {
    let (memory_bytes, parent) = (options.bounds.memory_bytes, rustix::process::getpid());
    // SAFETY: called in the child between fork and exec; what it calls are system calls that are safe there, and allocate nothing.
    unsafe {
        command.pre_exec(move || {
            rustix::thread::set_no_new_privs(true)?;
            // A core file would hold the data.
            rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
            if let Some(bytes) = memory_bytes {
                // A lower limit of this process stays.
                let maximum = rustix::process::getrlimit(Resource::As).maximum;
                let limit = Some(maximum.map_or(bytes, |maximum| maximum.min(bytes)));
                rustix::process::setrlimit(Resource::As, Rlimit { current: limit, maximum: limit })?;
            }
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
            end_with_parent(parent)
        });
    }
}

/// Starts the child, which gets its priority once it is another program.
fn spawn_prepared(command: &mut Command, options: &EngineOptions) -> io::Result<Child> {
    let child = command.spawn()?;
    child.id().into_iter().for_each(|pid| give_way(pid, options.priority));
    Ok(child)
}

/// Lets the child end when this process, `parent`, does, even if that is killed. For a child between fork and exec.
fn end_with_parent(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // A parent that has ended before tells nothing any more. Nobody would configure this engine, which would serve its default port.
    match rustix::process::getppid() {
        Some(now) if now == parent => Ok(()),
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// Brings up the loopback interface, which is down in a new network namespace. For a child between fork and exec.
fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all zeros are a value of this type, which holds numbers only.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the call reads a request of the type that goes with it, which lives as long as the call.
    let is_up = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) } == 0;
    if is_up {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends a listener on a free port of 127.0.0.1. For a child between fork and exec.
fn send_listener(to: BorrowedFd<'_>) -> io::Result<()> {
    let listener = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    rustix::net::listen(&listener, 16)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [listener.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    rustix::net::sendmsg(to, &[IoSlice::new(b"l")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The listener that the child has sent before it became another program.
fn receive_listener(from: BorrowedFd<'_>) -> io::Result<TcpListener> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let listener = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    let listener: OwnedFd = listener.ok_or_else(|| io::Error::other("the child sent no listener"))?;
    Ok(listener.into())
}
