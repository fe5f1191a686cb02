//! What an engine holds, to be compared: numbers of keys, the digest of everything, and types of modules.

use durability_protocol::audit::parse_keyspace;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};

use super::{Engine, EngineError};
use crate::store::Contents;

impl Engine {
    /// The number of keys of each database that has any, including expired ones.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn key_counts(&mut self) -> Result<Vec<(u32, u64)>, EngineError> {
        Ok(parse_keyspace(&self.ask(&["INFO", "keyspace"]).await?))
    }

    /// What it holds: the number of keys of each database, the digest of everything, and types of modules. Afterwards it follows no feed.
    pub async fn contents(&mut self) -> Result<Contents, EngineError> {
        // The digest leaves out expired fields of hashes, so it would change by itself. Only the source of an import sees everything, and only
        // on a server that is no replica.
        self.ask(&["REPLICAOF", "NO", "ONE"]).await?;
        self.ask(&["CLIENT", "IMPORT-SOURCE", "ON"]).await?;
        let info = self.ask(&["INFO", "keyspace"]).await?;
        let digest = self.ask_of_all(&["DEBUG", "DIGEST"]).await?;
        let keys = parse_keyspace(&info);
        let module_types = self.module_types(&keys).await?;
        Ok(Contents { keys, digest, module_types })
    }

    /// The types of modules of which it has values. Reads every key, but only if modules are loaded.
    async fn module_types(&mut self, databases: &[(u32, u64)]) -> Result<Vec<String>, EngineError> {
        let modules = self.query(&[b"MODULE", b"LIST"]).await?;
        if !matches!(modules, BytesFrame::Array(modules) if modules.iter().any(is_loaded)) {
            return Ok(Vec::new());
        }
        let databases: Vec<String> = databases.iter().map(|(database, _)| database.to_string()).collect();
        let mut command = vec!["EVAL", MODULE_TYPES, "0"];
        command.extend(databases.iter().map(String::as_str));
        let mut types: Vec<String> = self.ask_of_all(&command).await?.split_whitespace().map(str::to_owned).collect();
        types.sort_unstable();
        Ok(types)
    }
}

/// Whether an element of `MODULE LIST` was loaded. The path of modules that are part of the server is their name.
fn is_loaded(module: &BytesFrame) -> bool {
    let BytesFrame::Array(fields) = module else { return true };
    let value = |name: &str| fields.chunks_exact(2).find(|pair| pair[0].as_str() == Some(name))?[1].as_str();
    value("name") != value("path")
}

/// Returns the names of the types of all keys in some databases, except the server's own types.
const MODULE_TYPES: &str = "\
    local found = {none = true, string = true, list = true, set = true, zset = true, hash = true, stream = true} \
    local names = {} \
    for _, database in ipairs(ARGV) do \
        server.call('SELECT', database) \
        local cursor = '0' \
        repeat \
            local reply = server.call('SCAN', cursor, 'COUNT', 1000) \
            cursor = reply[1] \
            for _, key in ipairs(reply[2]) do \
                local name = server.call('TYPE', key).ok \
                if not found[name] then \
                    found[name] = true \
                    names[#names + 1] = name \
                end \
            end \
        until cursor == '0' \
    end \
    return table.concat(names, ' ')";
