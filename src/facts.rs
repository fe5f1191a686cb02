//! What a server says of itself.

/// How the agent reaches its own server, and what the server holds.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// TCP port; 0 if it does not listen there.
    pub port: u16,
    /// Address that it listens on for TCP.
    pub bind: String,
    /// Path of the unix socket; empty if there is none.
    pub unix_socket: String,
    /// Its version, as `9.1.2`.
    pub engine: String,
    /// Whether there is any key or function.
    pub has_data: bool,
    /// Whether it is a replica, and not because this module made it one.
    pub is_others_replica: bool,
}

impl Facts {
    /// Takes in a line of `INFO server` such as `name=tcp,bind=127.0.0.1,bind=::1,port=6379`.
    pub fn add_listener(&mut self, line: &str) {
        let values = |name: &'static str| {
            line.split(',')
                .filter_map(move |field| field.split_once('=').filter(|(key, _)| *key == name))
                .map(|(_, v)| v)
        };
        // The first address; a leading '-' only says that it may be missing.
        let bind = values("bind").next().unwrap_or("").trim_start_matches('-');
        match values("name").next() {
            Some("tcp") => {
                self.port = values("port").next().and_then(|port| port.parse().ok()).unwrap_or(0);
                self.bind = bind.to_owned();
            }
            Some("unix") => self.unix_socket = bind.to_owned(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_tells_where_it_listens() {
        let mut facts = Facts::default();
        for line in
            ["name=unix,bind=/run/valkey.sock", "name=tcp,bind=-::1,bind=10.0.0.5,port=6379", "name=tls,bind=*,port=1"]
        {
            facts.add_listener(line);
        }
        assert_eq!((facts.port, facts.bind.as_str(), facts.unix_socket.as_str()), (6379, "::1", "/run/valkey.sock"));
    }
}
