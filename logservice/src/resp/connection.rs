//! One connection: reads commands, runs them in order, gives their replies in order.

use std::io::ErrorKind;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use durability_protocol as protocol;
use durability_protocol::{Code, Refusal};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::append::AppendCommand;
use super::arguments::text;
use super::command::Splitter;
use super::identity::Identity;
use super::output::{Outlook, Output};
use super::replica::{self, ReplicaInfo};
use super::reply::{self, failure, Reply};
use super::socket::Socket;
use super::{admin, lease};
use crate::service::Service;
use crate::shard::{Position, Shard};

const MIN_READ_BYTES: usize = 16 << 10;
const MAX_READ_BYTES: usize = 256 << 10;

/// A client's connection.
pub struct Connection {
    service: Arc<Service>,
    output: Arc<Output>,
    peer: String,
    input: BytesMut,
    splitter: Splitter,
    identity: Identity,
    replica: ReplicaInfo,
    closing: bool,
    id: u64,
}

/// What to do after a command.
enum Next {
    Reply(Reply),
    /// The reply comes when an append is durable.
    Later,
    Close(Reply),
    /// The connection is a replica from now on.
    Follow(Arc<Shard>, Position),
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(service: Arc<Service>, socket: Socket, peer: String, id: u64) -> Self {
        Connection {
            service,
            output: Arc::new(Output::new(socket)),
            peer,
            input: BytesMut::with_capacity(MIN_READ_BYTES),
            splitter: Splitter::default(),
            identity: Identity::default(),
            replica: ReplicaInfo::default(),
            closing: false,
            id,
        }
    }

    /// Serves the connection until either side ends it. After `shutdown` nothing more is read, and it ends when every
    /// reply was given.
    pub async fn serve(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut arguments: Vec<Bytes> = Vec::new();
        let mut read_bytes = MIN_READ_BYTES;
        loop {
            let mut is_cut_short = false;
            while !self.closing {
                if !self.output.has_room() {
                    is_cut_short = true;
                    break;
                }
                match self.splitter.next(&mut self.input, &mut arguments) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        self.output.push(reply::error(&failure(error.to_string())));
                        self.closing = true;
                        break;
                    }
                }
                match self.run(&arguments).await {
                    Next::Reply(reply) => self.output.push(reply),
                    Next::Later => {}
                    Next::Close(reply) => {
                        self.output.push(reply);
                        self.closing = true;
                    }
                    Next::Follow(shard, position) => return self.follow(shard, position, shutdown).await,
                }
            }
            arguments.clear();
            self.closing |= *shutdown.borrow();
            let outlook = self.output.settle(self.closing);
            // With a client that always sends, nothing below waits.
            tokio::task::coop::consume_budget().await;
            let room = match outlook {
                Outlook::End => return,
                // There is room again, and commands that have come already.
                Outlook::Read if is_cut_short => continue,
                Outlook::Wait => 0,
                Outlook::Read => {
                    let needed = self.splitter.needed_bytes().saturating_sub(self.input.len());
                    if self.input.capacity() - self.input.len() < needed.max(read_bytes / 4) {
                        self.input.reserve(needed.max(read_bytes));
                    }
                    self.input.capacity() - self.input.len()
                }
            };
            tokio::select! {
                ready = self.output.socket().readable(), if outlook == Outlook::Read => {
                    match ready.and_then(|()| self.output.socket().try_read_buf(&mut self.input)) {
                        Ok(0) => return,
                        Ok(bytes) if bytes == room => read_bytes = (read_bytes * 2).min(MAX_READ_BYTES),
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
                () = self.output.changed() => {}
                _ = shutdown.changed(), if !self.closing => self.closing = true,
            }
        }
    }

    async fn follow(self, shard: Arc<Shard>, position: Position, shutdown: watch::Receiver<bool>) {
        let Some((mut stream, out)) = self.output.into_parts() else { return };
        if stream.write_all(&out).await.is_err() {
            return;
        }
        let name = shard.name().to_owned();
        let listening = self.replica.listening(&self.peer);
        tracing::info!("shard {name}: replica {listening} attached: {position}");
        let ended = replica::Follower::new(stream, self.input, self.splitter, shard, self.service)
            .serve(position, shutdown)
            .await;
        match ended {
            Ok(offset) => tracing::info!("shard {name}: replica {listening} detached at {offset}"),
            Err(error) => tracing::warn!("shard {name}: replica {listening} detached: {error}"),
        }
    }

    async fn run(&mut self, arguments: &[Bytes]) -> Next {
        match self.dispatch(arguments).await {
            Ok(next) => next,
            Err(refusal) => Next::Reply(reply::error(&refusal)),
        }
    }

    async fn dispatch(&mut self, arguments: &[Bytes]) -> Result<Next, Refusal> {
        let Some(name) = arguments.first() else { return Err(failure("empty command")) };
        let is = |command: &str| name.eq_ignore_ascii_case(command.as_bytes());
        if is(protocol::APPEND) {
            return self.append(arguments).await;
        }
        let answer = if is(protocol::RENEW) {
            lease::renew(self.shard(arguments).await?, arguments).await?
        } else if is(protocol::ACQUIRE) {
            lease::acquire(self.shard(arguments).await?, arguments).await?
        } else if is(protocol::BEGIN) {
            lease::begin(self.shard(arguments).await?, arguments).await?
        } else if is(protocol::RELEASE) {
            lease::release(self.shard(arguments).await?, arguments).await?
        } else if is(protocol::STATUS) {
            admin::status(&*self.shard(arguments).await?, self.service.http_port())
        } else if is(protocol::SNAPSHOT) {
            admin::snapshot(&self.service, self.shard(arguments).await?).await?
        } else if is(protocol::SHARDS) {
            admin::shards(&self.service, &self.identity)
        } else if is(protocol::DEBUG) {
            let (shard, mode) = admin::parse_debug(&self.service, arguments)?;
            admin::debug(&self.shard_named(shard).await?, mode)?
        } else if is("PSYNC") {
            return self.psync(arguments).await;
        } else if is("REPLCONF") {
            match self.replica.configure(arguments)? {
                Some(answer) => answer,
                None => return Ok(Next::Later),
            }
        } else if is("QUIT") {
            return Ok(Next::Close(reply::ok()));
        } else {
            return self.session(name, arguments).map(Next::Reply);
        };
        Ok(Next::Reply(answer))
    }

    fn session(&mut self, name: &[u8], arguments: &[Bytes]) -> Result<Reply, Refusal> {
        let is = |command: &str| name.eq_ignore_ascii_case(command.as_bytes());
        if is("PING") {
            return Ok(arguments.get(1).map_or_else(|| reply::simple("PONG"), |text| Reply::BulkString(text.clone())));
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
        authenticated.inspect_err(|refusal| tracing::warn!("{}: login refused: {refusal}", self.peer))
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

    /// The shard that the first argument names.
    async fn shard(&self, arguments: &[Bytes]) -> Result<Arc<Shard>, Refusal> {
        let Some(name) = arguments.get(1) else { return Err(failure("which shard? it is the first argument")) };
        self.shard_named(text(name)?).await
    }

    async fn shard_named(&self, name: &str) -> Result<Arc<Shard>, Refusal> {
        self.identity.check(self.service.needs_tokens(), name)?;
        self.service.shard(name).await
    }

    async fn append(&mut self, arguments: &[Bytes]) -> Result<Next, Refusal> {
        let command = AppendCommand::parse(arguments)?;
        self.identity.check(self.service.needs_tokens(), command.shard)?;
        self.output.append(&self.service, command).await?;
        Ok(Next::Later)
    }

    async fn psync(&mut self, arguments: &[Bytes]) -> Result<Next, Refusal> {
        let Some(name) = self.identity.named_shard() else {
            return Err(Refusal::new(Code::NoAuth, "name the shard with primaryuser and primaryauth"));
        };
        if !self.output.is_unused() {
            return Err(failure("PSYNC needs a connection of its own"));
        }
        let shard = self.shard_named(name).await?;
        shard.check_engine(self.replica.version())?;
        let position = replica::find_position(&shard, arguments)?;
        Ok(Next::Follow(shard, position))
    }
}
