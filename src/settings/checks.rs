//! Addresses and names: what is a valid one.

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

/// Checks an address of the log service.
///
/// # Errors
/// What is wrong with it, for the user to read.
pub fn check_address(address: &str) -> Result<(), String> {
    parse_address(address).map(|_| ())
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
    check_address(address)
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
    fn what_is_announced_is_one_address_and_nothing_else() {
        for good in ["", "10.0.0.5:6379", "[::1]:6379", "node-1.example:6379"] {
            assert_eq!(check_announce(good), Ok(()), "{good:?}");
        }
        for bad in ["host", "a:1,b:2", "a=b:1", "a\x1b[2J:1", "a\n:1", "é:1"] {
            assert!(check_announce(bad).unwrap_err().contains("give host:port"), "{bad:?}");
        }
    }
}
