//! The logins that the module announces to itself before it sends them: each secret opens one connection, once. So a secret is of no use to
//! anybody who learns it, from a dump of the memory or because somebody else listens where this server should. Plain logic; main thread.

use std::net::SocketAddr;

use subtle::ConstantTimeEq;

use crate::decide::gate::ClientId;

/// The tap logs in under this name.
pub const TAP: &str = "durability-tap";
/// The self-test logs in under this name, and is held from then on.
pub const SELF_TEST: &str = "durability-self-test";

/// The most logins that are expected. One that never comes, as its connection broke, is forgotten when there are more.
const MAX_EXPECTED: usize = 16;

/// Which connection a login comes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The connection of this client, which the server was handed.
    Client(ClientId),
    /// A connection from that address.
    Tcp(SocketAddr),
    /// A connection to the server's unix socket; the server does not say which.
    Unix,
}

/// The logins that are expected.
#[derive(Debug, Default)]
pub struct OwnLogins(Vec<(Origin, String)>);

impl OwnLogins {
    /// On the connection from `origin` each of the secrets opens the server, once.
    pub fn expect(&mut self, origin: Origin, secrets: Vec<String>) {
        self.0.extend(secrets.into_iter().map(|secret| (origin, secret)));
        let surplus = self.0.len().saturating_sub(MAX_EXPECTED);
        self.0.drain(..surplus);
    }

    /// Whether any is expected from an address or a unix socket.
    pub fn expects_any_from_outside(&self) -> bool {
        self.0.iter().any(|(origin, _)| !matches!(origin, Origin::Client(_)))
    }

    /// Whether `secret` is expected on the connection from `origin`. If so, it is not expected any more.
    pub fn take(&mut self, origin: Origin, secret: &[u8]) -> bool {
        let is_it =
            |(expected, right): &(Origin, String)| *expected == origin && bool::from(right.as_bytes().ct_eq(secret));
        let found = self.0.iter().position(is_it);
        found.map(|at| self.0.remove(at)).is_some()
    }
}

/// A secret that nobody can guess.
///
/// # Errors
/// The process has no more file descriptors, or the system no randomness.
pub fn random_secret() -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    #[test]
    fn a_secret_opens_its_own_connection_once() {
        let mut logins = OwnLogins::default();
        let (seven, address) = (Origin::Client(7), Origin::Tcp("127.0.0.1:40000".parse().unwrap()));
        assert!(!logins.take(seven, b""));
        logins.expect(seven, vec!["a".to_owned(), "b".to_owned()]);
        assert!(!logins.expects_any_from_outside());
        logins.expect(address, secret("c"));
        assert!(logins.expects_any_from_outside());
        for (origin, wrong) in [(Origin::Client(8), "a"), (Origin::Unix, "a"), (seven, "c"), (seven, ""), (seven, "ab")]
        {
            assert!(!logins.take(origin, wrong.as_bytes()), "{origin:?} {wrong}");
        }
        for (origin, right) in [(seven, "b"), (seven, "a"), (address, "c")] {
            assert!(logins.take(origin, right.as_bytes()), "{origin:?} {right}");
            assert!(!logins.take(origin, right.as_bytes()), "{origin:?} {right} a second time");
        }
    }

    #[test]
    fn what_never_comes_does_not_gather() {
        let mut logins = OwnLogins::default();
        for client in 0..=MAX_EXPECTED as ClientId {
            logins.expect(Origin::Client(client), secret("a"));
        }
        assert_eq!(logins.0.len(), MAX_EXPECTED);
        assert!(!logins.take(Origin::Client(0), b"a") && logins.take(Origin::Client(1), b"a"));
    }

    #[test]
    fn no_secret_is_drawn_twice() {
        let [one, other] = [(); 2].map(|()| random_secret().unwrap());
        assert!(one != other && one.len() == 64);
    }
}
