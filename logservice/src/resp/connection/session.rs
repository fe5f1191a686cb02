//! Commands about the connection itself: `AUTH`, `HELLO`, `CLIENT`, `PING`, and subscriptions.

use bytes::Bytes;
use durability_protocol::{Code, Refusal, ReplicaUser};

use super::Connection;
use crate::access::guesses::{too_many_guesses, Credential};
use crate::resp::arguments::text;
use crate::resp::reply::{self, failure, Protocol, Reply};

/// Longest name of a connection in bytes.
const MAX_NAME_BYTES: usize = 128;

impl Connection {
    /// `PING`. A subscriber in RESP2 gets the reply in the form of a message.
    pub(super) fn ping(&self, arguments: &[Bytes]) -> Reply {
        if self.subscriptions.is_some() && self.output.protocol() == Protocol::Two {
            let text = arguments.get(1).map_or(&[][..], |text| &text[..]);
            return reply::array(vec![reply::bulk("pong"), Reply::Bulk(Bytes::copy_from_slice(text))]);
        }
        arguments.get(1).map_or_else(
            || reply::simple("PONG"),
            // Copied, as the reply may wait behind appends and would keep a whole buffer.
            |text| Reply::Bulk(Bytes::copy_from_slice(text)),
        )
    }

    /// `AUTH`.
    pub(super) fn authenticate(&mut self, credentials: &[Bytes]) -> Result<Reply, Refusal> {
        let mut authenticated = if self.service.needs_tokens() {
            let (network, credential) = (self.guest.network(), credential(credentials));
            let tried = self.service.guesses().may_try(network, &credential).map_err(too_many_guesses);
            tried.and_then(|()| {
                let proved = self.prove(credentials);
                self.service.guesses().note(network, &credential, proved.is_ok());
                proved
            })
        } else {
            self.prove(credentials)
        };
        if let Err(refusal) = &authenticated {
            self.failed_logins += 1;
            self.warn_of_stranger(&format!("login refused: {refusal}"));
        }
        if let Err(refusal) = self.note_login() {
            authenticated = authenticated.and(Err(refusal));
        }
        authenticated.map(|()| reply::ok())
    }

    fn prove(&mut self, credentials: &[Bytes]) -> Result<(), Refusal> {
        match credentials {
            [token] => self.identity.authenticate_all(token),
            [shard, token] => self.identity.authenticate_shard(text(shard)?, token),
            _ => Err(failure("usage: AUTH shard token")),
        }
    }

    /// `HELLO`.
    pub(super) fn hello(&mut self, options: &[Bytes]) -> Result<Reply, Refusal> {
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
        // As a Sentinel answers, which has no role.
        Ok(Reply::Map(vec![
            text("server", "logservice"),
            text("version", env!("CARGO_PKG_VERSION")),
            number("proto", protocol.number()),
            number("id", self.id),
            text("mode", "sentinel"),
            (reply::bulk("modules"), reply::array(Vec::new())),
        ]))
    }

    /// `CLIENT`.
    pub(super) fn client(&mut self, arguments: &[Bytes]) -> Result<Reply, Refusal> {
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

    /// Any command of pub/sub.
    pub(super) fn subscribe(&mut self, arguments: &[Bytes]) -> Result<Reply, Refusal> {
        let mut subscriptions = self.subscriptions.take().unwrap_or_default();
        let replies = subscriptions.command(&self.service, arguments);
        self.subscriptions = Some(subscriptions).filter(|subscriptions| !subscriptions.is_empty());
        replies
    }
}

/// What counts as one guess: the shard and the token. The rest of a replica's user name differs each time.
fn credential(credentials: &[Bytes]) -> Credential {
    let (user, token) = match credentials {
        [user, token] => (text(user).unwrap_or_default(), &token[..]),
        [token] => ("", &token[..]),
        _ => return Credential::default(),
    };
    let shard = ReplicaUser::parse(user).map_or(user, |user| user.shard);
    Credential::new(shard, token)
}

/// A name that a client gives its connection. Copied, as it would keep a whole buffer otherwise.
fn connection_name(name: &[u8]) -> Result<Bytes, Refusal> {
    if name.len() > MAX_NAME_BYTES || !name.iter().all(u8::is_ascii_graphic) {
        return Err(failure(format!("a name has at most {MAX_NAME_BYTES} printable characters and no spaces")));
    }
    Ok(Bytes::copy_from_slice(name))
}
