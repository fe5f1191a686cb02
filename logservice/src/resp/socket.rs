//! The socket of a connection, with TLS or without.
//!
//! The TLS session is under a lock of its own and does no input or output by itself. So the thread that made an append
//! durable can encrypt and send the acknowledgement, while the connection's task waits for the next command.

use std::io::{self, ErrorKind, Read, Write};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};
use std::task::{ready, Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use durability_tls::rustls::ServerConnection;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::connections::port::Transport;

/// The most that is decrypted at a time.
const MAX_DECRYPT_BYTES: usize = 64 << 10;
/// How often to check that a client that waits for something long is still connected.
const HANG_UP_INTERVAL: Duration = Duration::from_millis(250);

/// A connection.
pub enum Socket {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsSocket>),
}

/// A connection with TLS on which the handshake is done.
pub struct TlsSocket {
    tcp: TcpStream,
    session: Mutex<ServerConnection>,
}

impl From<TcpStream> for Socket {
    fn from(tcp: TcpStream) -> Self {
        Socket::Plain(tcp)
    }
}

impl From<TlsStream<TcpStream>> for Socket {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        let (tcp, session) = stream.into_inner();
        Socket::Tls(Box::new(TlsSocket { tcp, session: Mutex::new(session) }))
    }
}

impl From<Transport> for Socket {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Plain(tcp) => tcp.into(),
            Transport::Tls(stream) => (*stream).into(),
        }
    }
}

impl Socket {
    /// Waits until there may be something to read.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Socket::Plain(tcp) => tcp.readable().await,
            Socket::Tls(tls) if tls.has_plaintext()? => Ok(()),
            Socket::Tls(tls) => tls.tcp.readable().await,
        }
    }

    /// Reads what is there, as much as `buffer` has capacity for. Returns 0 if the client has ended the connection.
    pub fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Socket::Plain(tcp) => tcp.try_read_buf(buffer),
            Socket::Tls(tls) => {
                let start = buffer.len();
                buffer.resize(buffer.capacity().min(start + MAX_DECRYPT_BYTES), 0);
                let read = tls.try_read(&mut buffer[start..]);
                buffer.truncate(start + read.as_ref().map_or(0, |bytes| *bytes));
                read
            }
        }
    }

    /// Writes what can be written now. With TLS, bytes may be taken without being sent yet: see [`Socket::try_flush`].
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(tcp) => tcp.try_write(bytes),
            Socket::Tls(tls) => tls.try_write(bytes),
        }
    }

    /// Sends bytes that were taken and not sent, as far as possible. Returns whether none are left.
    pub fn try_flush(&self) -> io::Result<bool> {
        match self {
            Socket::Plain(_) => Ok(true),
            Socket::Tls(tls) => tls.flush(&mut tls.lock()),
        }
    }

    /// Whether all bytes that were taken are sent.
    pub fn is_flushed(&self) -> bool {
        match self {
            Socket::Plain(_) => true,
            Socket::Tls(tls) => !tls.lock().wants_write(),
        }
    }

    /// Waits until more can be written.
    pub async fn writable(&self) -> io::Result<()> {
        self.tcp().ready(Interest::WRITABLE).await.map(drop)
    }

    /// Waits until all bytes that were taken are sent.
    pub async fn flushed(&self) -> io::Result<()> {
        while !self.try_flush()? {
            self.writable().await?;
        }
        Ok(())
    }

    /// Waits until the client has ended the connection, or its half of it. Does not read what the client has sent.
    pub async fn hung_up(&self) {
        // Tokio's readiness does not show this while there is something to read.
        while !self.has_hung_up() {
            tokio::time::sleep(HANG_UP_INTERVAL).await;
        }
    }

    fn has_hung_up(&self) -> bool {
        let ended = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut sockets = [PollFd::new(self.tcp(), ended)];
        let at_once = Timespec::default();
        // It fails if it is interrupted, and is called again later.
        poll(&mut sockets, Some(&at_once)).is_ok_and(|_| sockets[0].revents().intersects(ended))
    }

    /// Two ends that can be used at the same time, as from [`TcpStream::split`].
    pub fn split(&self) -> (&Self, &Self) {
        (self, self)
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Socket::Plain(tcp) => tcp,
            Socket::Tls(tls) => &tls.tcp,
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(tcp) => tcp.try_read(buffer),
            Socket::Tls(tls) => tls.try_read(buffer),
        }
    }
}

impl TlsSocket {
    fn lock(&self) -> MutexGuard<'_, ServerConnection> {
        self.session.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether something is decrypted and not read, which the TCP connection does not show.
    fn has_plaintext(&self) -> io::Result<bool> {
        let state = self.lock().process_new_packets().map_err(invalid)?;
        Ok(state.plaintext_bytes_to_read() > 0)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut session = self.lock();
        let mut filled = 0;
        while filled < buffer.len() {
            match session.reader().read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(bytes) => {
                    filled += bytes;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Ended without the closing alert. The protocol above notices if something was cut off.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
            match session.read_tls(&mut Tcp(&self.tcp)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && filled > 0 => break,
                Err(error) => return Err(error),
            }
            let processed = session.process_new_packets();
            if session.wants_write() {
                // An answer of TLS itself, or the alert that says what was wrong. If it is not sent now, it is sent before the next write.
                let _ = self.flush(&mut session);
            }
            processed.map_err(invalid)?;
        }
        Ok(filled)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut session = self.lock();
        if !self.flush(&mut session)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = session.writer().write(bytes)?;
        self.flush(&mut session)?;
        Ok(taken)
    }

    fn flush(&self, session: &mut ServerConnection) -> io::Result<bool> {
        durability_tls::flush(session, &mut Tcp(&self.tcp))
    }
}

impl Drop for TlsSocket {
    /// Sends the closing alert if that is possible at once, so that the client knows that nothing was cut off.
    fn drop(&mut self) {
        let mut session = self.lock();
        session.send_close_notify();
        let _ = self.flush(&mut session);
    }
}

fn invalid(error: durability_tls::rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

/// A TCP connection with the interface that a TLS session needs. Does not wait.
struct Tcp<'a>(&'a TcpStream);

impl Read for Tcp<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Tcp<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for &Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !matches!(**self, Socket::Tls(ref tls) if tls.has_plaintext()?) {
                ready!(self.tcp().poll_read_ready(cx))?;
            }
            match self.try_read(buffer.initialize_unfilled()) {
                Ok(bytes) => {
                    buffer.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for &Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp().poll_write_ready(cx))?;
            match self.try_write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.try_flush()? {
            ready!(self.tcp().poll_write_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Dropping the socket ends the connection; nothing here ends one half of it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_shutdown(cx)
    }
}
