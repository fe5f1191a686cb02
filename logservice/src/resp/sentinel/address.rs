//! Addresses of nodes in the form that clients need.

use durability_protocol::is_valid_address;

/// A host, without the brackets of an IPv6 address, and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address<'a> {
    /// A name or an address.
    pub host: &'a str,
    /// The port.
    pub port: u16,
}

impl<'a> Address<'a> {
    /// Splits `host:port`. `None` for anything else, as no client could connect to it: a manifest may hold what no node may report today.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':').filter(|_| is_valid_address(text))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port > 0)?;
        (!host.is_empty()).then_some(Address { host, port })
    }
}

impl std::fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Address { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_ports_and_lose_their_brackets() {
        for (text, host, shown) in [
            ("10.0.0.5:6379", "10.0.0.5", "10.0.0.5:6379"),
            ("node-1.example:6379", "node-1.example", "node-1.example:6379"),
            ("[::1]:6379", "::1", "[::1]:6379"),
            ("fe80::1:6379", "fe80::1", "[fe80::1]:6379"),
        ] {
            let address = Address::parse(text).expect("an address");
            assert_eq!((address, address.to_string()), (Address { host, port: 6379 }, shown.to_owned()));
        }
    }

    #[test]
    fn an_address_to_which_no_client_could_connect_is_refused() {
        for text in
            ["", "-", "host", "host:", ":6379", "[]:6379", "host:0", "host:65536", "host:-1", "host:x", "a,b=c:1"]
        {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }
}
