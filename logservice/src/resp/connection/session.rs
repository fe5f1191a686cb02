//! What a client says and asks about its connection: logging in, `HELLO`, `CLIENT`, `PING`.

use bytes::Bytes;
use durability_protocol::{Code, Refusal};

use super::Connection;
use crate::resp::admin;
use crate::resp::arguments::text;
use crate::resp::reply::{self, failure, Protocol, Reply};
use crate::resp::sentinel;

/// Longest name of a connection in bytes.
const MAX_NAME_BYTES: usize = 128;

impl Connection {
    /// Commands that are not about a shard's log.
    pub(super) fn session(&mut self, name: &[u8], arguments: &[Bytes]) -> Result<Reply, Refusal> {
        let is = |command: &str| name.eq_ignore_ascii_case(command.as_bytes());
        if is("PING") {
            if self.subscriptions.is_some() && self.output.protocol() == Protocol::Two {
                let text = arguments.get(1).map_or(&[][..], |text| &text[..]);
                return Ok(reply::array(vec![reply::bulk("pong"), Reply::Bulk(Bytes::copy_from_slice(text))]));
            }
            return Ok(arguments.get(1).map_or_else(
                || reply::simple("PONG"),
                // Copied, as it may wait behind appends, and would keep a whole buffer.
                |text| Reply::Bulk(Bytes::copy_from_slice(text)),
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
        if is("SENTINEL") {
            return sentinel::answer(&self.service, &self.identity, arguments);
        }
        if is("ROLE") {
            return Ok(sentinel::role(&self.service, &self.identity));
        }
        if is("COMMAND") {
            return Ok(reply::array(Vec::new()));
        }
        if is("SELECT") {
            let zero = arguments.get(1).is_some_and(|index| &index[..] == b"0");
            return if zero { Ok(reply::ok()) } else { Err(failure("there is only database 0")) };
        }
        if is("CLIENT") {
            return self.client(&arguments[1..]);
        }
        if let Some(replies) = self.subscribe(arguments) {
            return replies;
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
        let (protocol, mut rest) = match options {
            [version, rest @ ..] if &version[..] == b"2" => (Protocol::Two, rest),
            [version, rest @ ..] if &version[..] == b"3" => (Protocol::Three, rest),
            [] => (self.output.protocol(), &[][..]),
            _ => return Ok(Reply::Error("NOPROTO unsupported protocol version".to_owned())),
        };
        let mut new_name = None;
        while let [option, following @ ..] = rest {
            rest = match following {
                [user, token, after @ ..] if option.eq_ignore_ascii_case(b"AUTH") => {
                    self.authenticate(&[user.clone(), token.clone()])?;
                    after
                }
                [name, after @ ..] if option.eq_ignore_ascii_case(b"SETNAME") => {
                    new_name = Some(connection_name(name)?);
                    after
                }
                _ => return Err(failure("usage: HELLO 2|3 [AUTH shard token] [SETNAME name]")),
            };
        }
        if self.is_stranger() {
            return Err(Refusal::new(Code::NoAuth, "log in first: HELLO 2|3 AUTH shard token"));
        }
        if let Some(name) = new_name {
            self.name = name;
        }
        self.output.set_protocol(protocol);
        let text = |name, value| (reply::bulk(name), reply::bulk(value));
        let number = |name, value| (reply::bulk(name), reply::integer(value));
        // As a Sentinel, which has no role.
        Ok(Reply::Map(vec![
            text("server", "logservice"),
            text("version", env!("CARGO_PKG_VERSION")),
            number("proto", protocol.number()),
            number("id", self.id),
            text("mode", "sentinel"),
            (reply::bulk("modules"), reply::array(Vec::new())),
        ]))
    }

    fn client(&mut self, arguments: &[Bytes]) -> Result<Reply, Refusal> {
        let subcommand = arguments.first().map(|subcommand| subcommand.to_ascii_uppercase()).unwrap_or_default();
        match (subcommand.as_slice(), &arguments[arguments.len().min(1)..]) {
            (b"ID", _) => Ok(reply::integer(self.id)),
            (b"GETNAME", _) if self.name.is_empty() => Ok(Reply::Null),
            (b"GETNAME", _) => Ok(Reply::Bulk(self.name.clone())),
            (b"SETNAME", [name]) => {
                self.name = connection_name(name)?;
                Ok(reply::ok())
            }
            (b"SETNAME", _) => Err(failure("wrong number of arguments for 'client|setname' command")),
            (b"SETINFO" | b"NO-EVICT" | b"NO-TOUCH" | b"CAPA", _) => Ok(reply::ok()),
            _ => Err(failure("unknown CLIENT subcommand")),
        }
    }

    /// One of the commands of pub/sub; `None` if it is another.
    fn subscribe(&mut self, arguments: &[Bytes]) -> Option<Result<Reply, Refusal>> {
        let mut subscriptions = self.subscriptions.take().unwrap_or_default();
        let replies = subscriptions.command(&self.service, arguments);
        self.subscriptions = Some(subscriptions).filter(|subscriptions| !subscriptions.is_empty());
        replies
    }
}

/// A name that a client gives its connection. Copied, as it would keep a whole buffer.
fn connection_name(name: &[u8]) -> Result<Bytes, Refusal> {
    if name.len() > MAX_NAME_BYTES || !name.iter().all(u8::is_ascii_graphic) {
        return Err(failure(format!("a name has at most {MAX_NAME_BYTES} printable characters and no spaces")));
    }
    Ok(Bytes::copy_from_slice(name))
}
