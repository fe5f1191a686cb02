//! What a node is called where nothing is configured: by the name of its machine and its port. Plain logic.

use durability_protocol::{is_valid_address, is_valid_name, MAX_NAME_BYTES};

/// Longest part of a node id that stands for the machine: with a colon and a port it is still a name.
const MAX_HOST_BYTES: usize = MAX_NAME_BYTES - ":65535".len();
/// Stands for a machine without a name.
const NAMELESS: &str = "node";

/// The node id on the machine called `host`. What cannot stand in a name becomes a hyphen, and a checksum of the whole tells
/// it from other machines whose names then look the same.
pub fn node_id(host: &str, port: u16) -> String {
    let id = format!("{}:{port}", if host.is_empty() { NAMELESS } else { host });
    if is_valid_name(&id) {
        return id;
    }
    let checksum = format!("-{:08x}", crc32c::crc32c(host.as_bytes()));
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let kept = host.chars().map(|c| Some(c).filter(is_allowed).unwrap_or('-'));
    let kept: String = kept.take(MAX_HOST_BYTES - checksum.len()).collect();
    format!("{}{checksum}:{port}", kept.trim_start_matches('.'))
}

/// Whether nodes on the machine called `host` have that id unless they are given another.
pub fn is_default(id: &str, host: &str) -> bool {
    let port = id.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.is_some_and(|port| node_id(host, port) == id)
}

/// The address of this node on the machine called `host`, as clients are told it: unchanged, or they would look for another machine.
///
/// # Errors
/// No client can use that name; the text says what to do.
pub fn address(host: &str, port: u16) -> Result<String, String> {
    let address = format!("{host}:{port}");
    if host.is_empty() || !is_valid_address(&address) {
        let text = format!(
            "this machine's host name ({host:?}) is no address that clients can use: set durability.announce to host:port"
        );
        return Err(text);
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_that_is_a_name_is_taken_as_it_is() {
        assert_eq!(node_id("db-1.example", 6379), "db-1.example:6379");
        assert_eq!(node_id("my_host", 6379), "my_host:6379");
        assert_eq!(node_id("", 6379), "node:6379");
        assert_eq!(address("my_host", 6379).as_deref(), Ok("my_host:6379"));
    }

    #[test]
    fn a_default_id_is_known_on_its_machine_whatever_the_port() {
        assert!(is_default(&node_id("bad host!", 1), "bad host!") && is_default("db-1:6380", "db-1"));
        for other in ["db-2:6380", "db-1", "a", "db-1:06380", "db-1:x"] {
            assert!(!is_default(other, "db-1"), "{other}");
        }
    }

    #[test]
    fn every_host_name_gives_a_node_id_that_is_a_name_and_its_own() {
        let hosts =
            ["bad host!", "bad-host-", "..", ".", "é", &"h".repeat(64), &("h".repeat(63) + "i"), &"h".repeat(58)];
        let mut ids: Vec<String> = hosts.iter().map(|host| node_id(host, 65535)).collect();
        for id in &ids {
            assert!(is_valid_name(id), "{id}");
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), hosts.len(), "{ids:?}");
    }

    #[test]
    fn an_address_is_never_another_name_than_the_host_has() {
        let long = "h".repeat(64);
        assert_eq!(address(&long, 1), Ok(format!("{long}:1")));
        for bad in ["bad host!", "", "a,b", "é", "a\nb", "a=b"] {
            assert!(address(bad, 1).unwrap_err().contains("set durability.announce"), "{bad}");
        }
    }
}
