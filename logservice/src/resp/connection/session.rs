//! What a client says and asks about its connection: logging in, `HELLO`, `CLIENT`, `PING`.

use bytes::Bytes;
use durability_protocol::{Code, Refusal};

use super::Connection;
use crate::resp::admin;
use crate::resp::arguments::text;
use crate::resp::reply::{self, failure, Reply};

impl Connection {
    /// Commands that are not about a shard's log.
    pub(super) fn session(&mut self, name: &[u8], arguments: &[Bytes]) -> Result<Reply, Refusal> {
        let is = |command: &str| name.eq_ignore_ascii_case(command.as_bytes());
        if is("PING") {
            return Ok(arguments.get(1).map_or_else(
                || reply::simple("PONG"),
                // Copied, as it may wait behind appends, and would keep a whole buffer.
                |text| Reply::BulkString(Bytes::copy_from_slice(text)),
            ));
        }
        if is("AUTH") {
            self.authenticate(&arguments[1..])?;
            return Ok(reply::ok());
        }
        if is("HELLO") {
            return self.hello(&arguments[1..]);
        }
        if is("INFO") {
            return Ok(admin::info(&self.service, &self.identity));
        }
        if is("COMMAND") {
            return Ok(reply::array(Vec::new()));
        }
        if is("SELECT") {
            let zero = arguments.get(1).is_some_and(|index| &index[..] == b"0");
            return if zero { Ok(reply::ok()) } else { Err(failure("there is only database 0")) };
        }
        if is("CLIENT") {
            return self.client(arguments.get(1).map_or(&[], |subcommand| &subcommand[..]));
        }
        Err(failure(format!("unknown command '{}'", String::from_utf8_lossy(&name[..name.len().min(64)]))))
    }

    fn authenticate(&mut self, credentials: &[Bytes]) -> Result<(), Refusal> {
        let tokens = self.service.tokens();
        let authenticated = match credentials {
            [token] => self.identity.authenticate_all(tokens.as_deref(), token),
            [shard, token] => self.identity.authenticate_shard(tokens.as_deref(), text(shard)?, token),
            _ => Err(failure("usage: AUTH shard token")),
        };
        if let Err(refusal) = &authenticated {
            self.failed_logins += 1;
            self.warn_of_stranger(&format!("login refused: {refusal}"));
        }
        self.note_login();
        authenticated
    }

    fn hello(&mut self, options: &[Bytes]) -> Result<Reply, Refusal> {
        let (version, mut rest) = match options {
            [version, rest @ ..] => (&version[..], rest),
            [] => (&b"2"[..], &[][..]),
        };
        if version != b"2" {
            return Ok(Reply::Error("NOPROTO this server speaks RESP2 only".into()));
        }
        while let [option, following @ ..] = rest {
            rest = match following {
                [user, token, after @ ..] if option.eq_ignore_ascii_case(b"AUTH") => {
                    self.authenticate(&[user.clone(), token.clone()])?;
                    after
                }
                [_, after @ ..] if option.eq_ignore_ascii_case(b"SETNAME") => after,
                _ => return Err(failure("usage: HELLO 2 [AUTH shard token] [SETNAME name]")),
            };
        }
        if self.is_stranger() {
            return Err(Refusal::new(Code::NoAuth, "log in first: HELLO 2 AUTH shard token"));
        }
        let fields = [("server", "logservice"), ("version", env!("CARGO_PKG_VERSION")), ("mode", "standalone")];
        let mut items: Vec<_> =
            fields.into_iter().flat_map(|(name, value)| [reply::bulk(name), reply::bulk(value)]).collect();
        items.extend([reply::bulk("proto"), reply::integer(2), reply::bulk("id"), reply::integer(self.id)]);
        items.extend([reply::bulk("role"), reply::bulk("master"), reply::bulk("modules"), reply::array(Vec::new())]);
        Ok(reply::array(items))
    }

    fn client(&self, subcommand: &[u8]) -> Result<Reply, Refusal> {
        match subcommand.to_ascii_uppercase().as_slice() {
            b"ID" => Ok(reply::integer(self.id)),
            b"GETNAME" => Ok(Reply::Null),
            b"SETNAME" | b"SETINFO" | b"NO-EVICT" | b"NO-TOUCH" | b"CAPA" => Ok(reply::ok()),
            _ => Err(failure("unknown CLIENT subcommand")),
        }
    }
}
