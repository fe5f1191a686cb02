//! Addresses and names: what is a valid one.

use std::net::IpAddr;

use durability_protocol::{is_valid_address, is_valid_name, MAX_NAME_BYTES};

/// Where a log service listens unless it is told otherwise.
pub const DEFAULT_LOG: &str = "127.0.0.1:7379";

/// Splits `host:port`; an IPv6 host may stand in brackets.
///
/// # Errors
/// What is wrong with it, for the user to read.
pub fn parse_address(address: &str) -> Result<(String, u16), String> {
    let wrong = || format!("'{address}' is not an address: give host:port, such as {DEFAULT_LOG}");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match port.parse::<u16>() {
        Ok(port) if port > 0 && !host.is_empty() && !host.contains(char::is_whitespace) => Ok((host.to_owned(), port)),
        _ => Err(wrong()),
    }
}

/// The most log services that a node can be given.
const MAX_SERVICES: usize = 9;

/// Splits a list of addresses of log services at its commas. There may be spaces around them. Each address comes with its host and port.
///
/// # Errors
/// What is wrong with which of them, for the user to read.
pub fn parse_services(list: &str) -> Result<Vec<(String, String, u16)>, String> {
    let mut services: Vec<(String, String, u16)> = Vec::new();
    for address in list.split(',').map(str::trim) {
        let (host, port) = parse_address(address)?;
        if services.iter().any(|known| is_same_place((&known.1, known.2), (&host, port))) {
            return Err(format!("'{address}' is in the list twice: name each log service once"));
        }
        services.push((address.to_owned(), host, port));
    }
    if services.len() > MAX_SERVICES {
        return Err(format!("these are {} log services, and a node takes {MAX_SERVICES} at most", services.len()));
    }
    Ok(services)
}

/// Whether two hosts with their ports are written alike. Names are not resolved. Case does not count in them, nor does the way in which an
/// IP address is written.
pub fn is_same_place((host, port): (&str, u16), (other, other_port): (&str, u16)) -> bool {
    let is_same_host = match (host.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(address), Ok(other)) => address == other,
        _ => host.eq_ignore_ascii_case(other),
    };
    is_same_host && port == other_port
}

/// Checks the addresses of the log services.
///
/// # Errors
/// What is wrong with them, for the user to read.
pub fn check_services(list: &str) -> Result<(), String> {
    parse_services(list).map(drop)
}

/// Checks an address that clients are told; it may be empty.
///
/// # Errors
/// What is wrong with it, for the user to read.
pub fn check_announce(address: &str) -> Result<(), String> {
    if address.is_empty() {
        return Ok(());
    }
    if !is_valid_address(address) {
        return Err(format!(
            "{address:?} is not an address that clients can be told: give host:port, of A-Z a-z 0-9 . _ - : [ ] %"
        ));
    }
    parse_address(address).map(drop)
}

/// Checks the name of a shard.
///
/// # Errors
/// What is wrong with it, for the user to read.
pub fn check_shard(name: &str) -> Result<(), String> {
    check_name("shard", name)
}

/// Checks the name of a node; it may be empty.
///
/// # Errors
/// What is wrong with it, for the user to read.
pub fn check_node_id(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Ok(());
    }
    check_name("node", name)
}

/// Checks the name of a zone; it may be empty.
///
/// # Errors
/// What is wrong with it, for the user to read.
pub fn check_zone(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Ok(());
    }
    check_name("zone", name)
}

fn check_name(what: &str, name: &str) -> Result<(), String> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(format!(
        "'{name}' cannot name a {what}: use 1 to {MAX_NAME_BYTES} of A-Z a-z 0-9 . _ : -, not beginning with a dot"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_host_and_a_port() {
        assert_eq!(parse_address("log.example:7379"), Ok(("log.example".into(), 7379)));
        assert_eq!(parse_address("[::1]:7379"), Ok(("::1".into(), 7379)));
        for bad in ["", "host", ":7379", "host:", "host:0", "host:70000", "a b:1"] {
            assert!(parse_address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn log_services_are_listed_once_each_with_spaces_around_the_commas() {
        let addresses =
            |list: &str| parse_services(list).map(|found| found.into_iter().map(|it| it.0).collect::<Vec<_>>());
        assert_eq!(addresses("log.example:7379"), Ok(vec!["log.example:7379".to_owned()]));
        assert_eq!(addresses("a:1, b:2 ,[::1]:3"), Ok(["a:1", "b:2", "[::1]:3"].map(str::to_owned).to_vec()));
        assert!(addresses(&(1..=9).map(|port| format!("a:{port}")).collect::<Vec<_>>().join(",")).is_ok());
        let ten = (1..=10).map(|port| format!("a:{port}")).collect::<Vec<_>>().join(",");
        for (bad, says) in [
            ("a:1,b", "'b' is not an address"),
            ("a:1,,b:2", "'' is not an address"),
            ("a:1,", "'' is not an address"),
            ("a:1 b:2", "'a:1 b:2' is not an address"),
            ("a:1,b:2,A:1", "'A:1' is in the list twice"),
            ("[::1]:1,[0:0::1]:1", "'[0:0::1]:1' is in the list twice"),
            (ten.as_str(), "these are 10 log services"),
        ] {
            assert!(addresses(bad).is_err_and(|why| why.contains(says)), "{bad:?}");
        }
    }

    #[test]
    fn what_is_announced_is_one_address_and_nothing_else() {
        for good in ["", "10.0.0.5:6379", "[::1]:6379", "node-1.example:6379"] {
            assert_eq!(check_announce(good), Ok(()), "{good:?}");
        }
        for bad in ["host", "a:1,b:2", "a=b:1", "a\x1b[2J:1", "a\n:1", "é:1"] {
            assert!(check_announce(bad).unwrap_err().contains("give host:port"), "{bad:?}");
        }
    }
}
