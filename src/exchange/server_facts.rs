//! What the server reports about itself.

/// How the agent reaches its own server, and what the server holds.
#[derive(Debug, Clone, Default)]
pub struct ServerFacts {
    /// TCP port; 0 if it does not listen there.
    pub port: u16,
    /// TCP port for TLS; 0 if it does not listen there.
    pub tls_port: u16,
    /// Address that it listens on for TCP; empty if each of the configured ones may be missing.
    pub bind: String,
    /// Path of the unix socket; empty if there is none.
    pub unix_socket: String,
    /// Its version, as `9.1.2`.
    pub engine: String,
    /// How many databases it has; 0 if it does not report that.
    pub databases: u32,
    /// Whether there is any key or function.
    pub has_data: bool,
    /// Whether it is a replica that this module did not make one.
    pub is_others_replica: bool,
    /// In a cluster: the id of the node whose replica it is, unless all know that one to have failed.
    pub cluster_primary: Option<String>,
    /// Whether it is a replica of its log.
    pub follows_log: bool,
    /// Whether nothing was added to its stream since the mode became off.
    pub is_as_left: bool,
}

impl ServerFacts {
    /// Reads a line of `INFO server` such as `name=tcp,bind=127.0.0.1,bind=::1,port=6379`.
    pub fn add_listener(&mut self, line: &str) {
        let values = |name: &'static str| {
            line.split(',')
                .filter_map(move |field| field.split_once('=').filter(|(key, _)| *key == name))
                .map(|(_, v)| v)
        };
        // A leading '-' allows the address to be missing: another process may listen there then.
        let bind = values("bind").find(|bind| !bind.starts_with('-')).unwrap_or("");
        let port = values("port").next().and_then(|port| port.parse().ok()).unwrap_or(0);
        match values("name").next() {
            Some("tcp") => {
                self.port = port;
                self.bind = bind.to_owned();
            }
            Some("tls") => self.tls_port = port,
            Some("unix") => self.unix_socket = bind.to_owned(),
            _ => {}
        }
    }

    /// The port at which clients reach the server unless an operator configures another; 0 if it has none.
    pub fn clients_port(&self) -> u16 {
        if self.port == 0 {
            self.tls_port
        } else {
            self.port
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_info_show_where_the_server_listens() {
        let mut facts = ServerFacts::default();
        for line in
            ["name=unix,bind=/run/valkey.sock", "name=tcp,bind=-::1,bind=10.0.0.5,port=6379", "name=tls,bind=*,port=1"]
        {
            facts.add_listener(line);
        }
        assert_eq!(
            (facts.port, facts.bind.as_str(), facts.unix_socket.as_str()),
            (6379, "10.0.0.5", "/run/valkey.sock")
        );
        assert_eq!((facts.tls_port, facts.clients_port()), (1, 6379));
        facts.add_listener("name=tcp,bind=-10.0.0.7,port=0");
        assert_eq!((facts.bind.as_str(), facts.clients_port()), ("", 1));
    }
}
