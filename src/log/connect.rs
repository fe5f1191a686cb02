//! Opens a connection to one of the configured log services.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use crate::base::time_limit::TimeLimit;
use crate::log::address;
use crate::log::error::LogError;
use crate::log::services::Service;
use crate::log::socket::LogSocket;
use crate::settings;
use crate::settings::tls::TlsSettings;

/// The longest that connecting to one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Connects to that log service, without logging in. With TLS, the handshake is still to be done. The addresses and what follows share what
/// the limit leaves. Any thread but the main thread.
///
/// # Errors
/// No address of its name can be connected to in time, or TLS cannot be used as it is configured.
pub fn connect(service: &Service, limit: &TimeLimit<'_>) -> Result<LogSocket, LogError> {
    let unreachable = |source| LogError::Unreachable { address: service.address.clone(), source };
    let (host, port) = settings::parse_address(&service.address)
        .map_err(|why| unreachable(std::io::Error::new(ErrorKind::InvalidInput, why)))?;
    let tls = TlsSettings::configured().map_err(|error| unreachable(std::io::Error::other(error)))?;
    let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
    let addresses = address::resolve(&host, port, limit).map_err(unreachable)?;
    for (left, socket_address) in (1..=addresses.len() as u32).rev().zip(&addresses) {
        let time = limit.part(left + 1).left().min(CONNECT_TIMEOUT);
        // The system accepts no timeout of zero.
        match TcpStream::connect_timeout(socket_address, time.max(Duration::from_millis(1))) {
            Ok(socket) => {
                socket.set_nodelay(true).map_err(unreachable)?;
                return LogSocket::new(socket, &host, tls).map_err(unreachable);
            }
            Err(error) => last = error,
        }
    }
    Err(unreachable(last))
}
