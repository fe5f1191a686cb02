//! The socket of a connection to the log, with TLS or without.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use durability_tls::rustls::{self, ClientConnection};

use crate::base::time_limit::TimeLimit;
use crate::settings::tls::TlsSettings;

/// A connection to the log. The TCP connection decides whether it waits: see [`LogSocket::tcp`].
pub struct LogSocket {
    tcp: Arc<TcpStream>,
    session: Option<Box<Session>>,
}

struct Session {
    tls: ClientConnection,
    settings: TlsSettings,
    host: String,
}

impl LogSocket {
    /// Uses a TCP connection to `host`. With TLS, the first writes and reads do the handshake, or [`LogSocket::handshake`] does.
    ///
    /// # Errors
    /// TLS cannot be used as it is configured.
    pub fn new(tcp: TcpStream, host: &str, tls: Option<TlsSettings>) -> io::Result<Self> {
        let session = match tls {
            None => None,
            Some(settings) => {
                let tls = settings.session(host)?;
                Some(Box::new(Session { tls, settings, host: host.to_owned() }))
            }
        };
        Ok(LogSocket { tcp: Arc::new(tcp), session })
    }

    /// The TCP connection itself, to poll or to set timeouts on.
    pub fn tcp(&self) -> &Arc<TcpStream> {
        &self.tcp
    }

    /// Does the handshake, if there is one to do, on a TCP connection that waits. Changes the connection's timeouts.
    ///
    /// # Errors
    /// It does not end within the limit, or fails.
    pub fn handshake(&mut self, limit: &TimeLimit<'_>) -> io::Result<()> {
        while self.is_handshaking() {
            let step = limit.next_step().map_err(|_| late())?;
            self.tcp.set_write_timeout(Some(step))?;
            self.try_flush()?;
            self.tcp.set_read_timeout(Some(step))?;
            match self.receive() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                received => drop(received?),
            }
        }
        self.try_flush().map(drop)
    }

    /// Whether the TLS handshake is not done yet.
    pub fn is_handshaking(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.tls.is_handshaking())
    }

    /// Whether a write took something that is not sent yet.
    pub fn wants_write(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.tls.wants_write())
    }

    /// Sends what writes took and is not sent yet, as much as the socket takes. Returns whether nothing is left.
    ///
    /// # Errors
    /// The connection has failed.
    pub fn try_flush(&mut self) -> io::Result<bool> {
        let Some(session) = &mut self.session else { return Ok(true) };
        durability_tls::flush(&mut session.tls, &mut &*self.tcp)
    }

    /// Reads bytes from the TCP connection into the TLS session. Returns whether there were any.
    fn receive(&mut self) -> io::Result<bool> {
        let Some(session) = &mut self.session else { return Ok(false) };
        let bytes = session.tls.read_tls(&mut &*self.tcp)?;
        if let Err(error) = session.tls.process_new_packets() {
            let why = session.explain(&error);
            // Sends the alert that says so.
            let _ = self.try_flush();
            return Err(why);
        }
        if bytes == 0 && session.tls.is_handshaking() {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "it closed the connection during the TLS handshake"));
        }
        Ok(bytes > 0)
    }

    /// Whether something was received that no read has returned yet. A poll of the TCP connection does not show that.
    pub fn has_received(&mut self) -> bool {
        let Some(session) = &mut self.session else { return false };
        // The read that received an error has returned it.
        session.tls.process_new_packets().is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
    }
}

impl Session {
    fn explain(&self, error: &rustls::Error) -> io::Error {
        io::Error::new(ErrorKind::InvalidData, self.settings.explain(&self.host, error))
    }
}

fn late() -> io::Error {
    io::Error::new(
        ErrorKind::TimedOut,
        "it did not finish the TLS handshake in time; is it a log service, with TLS, and does it run?",
    )
}

impl Read for LogSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(session) = &mut self.session else { return (&*self.tcp).read(buffer) };
            match session.tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The connection ended without the closing alert. The protocol above notices what is missing.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            self.receive()?;
        }
    }
}

impl Write for LogSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    /// With TLS, bytes may be taken and not sent yet. They are sent before the next ones, and by [`LogSocket::try_flush`].
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.session.is_some() && !self.try_flush()? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let Some(session) = &mut self.session else { return (&*self.tcp).write_vectored(slices) };
        let taken = session.tls.writer().write_vectored(slices)?;
        self.try_flush()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.try_flush()? {
            Ok(())
        } else {
            Err(ErrorKind::WouldBlock.into())
        }
    }
}
