//! Which connections count together.

use std::fmt;
use std::net::IpAddr;

/// An IPv4 address, or the /64 of an IPv6 address, as the owner of one IPv6 address has all of its /64. Loopback counts like any other
/// address, so that a proxy on this machine is bounded like any other proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(u64, bool);

impl Network {
    /// Bits of an IPv6 address that do not count.
    const HOST_BITS: u32 = 64;

    /// The network of an address. An IPv4 address that is mapped into IPv6 counts as the IPv4 address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Network(u64::from(address.to_bits()), true),
            IpAddr::V6(address) => Network((address.to_bits() >> Self::HOST_BITS) as u64, false),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Network(bits, true) => std::net::Ipv4Addr::from_bits(bits as u32).fmt(f),
            Network(bits, false) => {
                write!(f, "{}/64", std::net::Ipv6Addr::from_bits(u128::from(bits) << Self::HOST_BITS))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> String {
        Network::of(address.parse().expect("an address")).to_string()
    }

    #[test]
    fn an_ipv4_address_counts_for_itself_and_an_ipv6_address_with_its_64() {
        assert_eq!(of("10.0.0.5"), "10.0.0.5");
        assert_eq!(of("::ffff:10.0.0.5"), "10.0.0.5");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:3::1"), of("2001:db8:1:2::1"));
        // The same bits are another network.
        assert_ne!(Network::of("::".parse().expect("an address")), Network::of("0.0.0.0".parse().expect("an address")));
    }
}
