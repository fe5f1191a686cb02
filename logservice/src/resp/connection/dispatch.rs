//! Finds a command, checks that this connection may send it, and runs it.

use bytes::Bytes;
use durability_protocol::{Code, Refusal};

use super::{Connection, Next};
use crate::access::login;
use crate::access::roles::Access;
use crate::resp::append::AppendCommand;
use crate::resp::command_roles::{self, Command, Entry};
use crate::resp::reply::{self, failure, Protocol};
use crate::resp::trial::{self, Sign};
use crate::resp::{admin, audit, backup, cluster, leadership_commands, node, replica, sentinel, slots};

/// What a subscriber may still send in RESP2, where replies cannot be told from messages.
const LISTENERS_COMMANDS: [Command; 3] = [Command::Subscribe, Command::Ping, Command::Quit];

impl Connection {
    /// Runs a command. Delays the answer to a wrong token.
    pub(in crate::resp) async fn run(&mut self, arguments: &[Bytes]) -> Next {
        let failed_logins = self.failed_logins;
        let next = match self.dispatch(arguments).await {
            Ok(next) => {
                if self.is_on_trial {
                    self.is_on_trial = match Sign::of(trial::name(arguments)) {
                        Sign::Node => false,
                        Sign::Watcher => !self.identity.may_have_kept_place(),
                        Sign::Client | Sign::None => true,
                    };
                }
                next
            }
            // What this connection compared with that shard's log no longer holds.
            Err(refusal)
                if matches!(refusal.code, Code::NoShard | Code::NotLeader) && self.identity.has_checked_any() =>
            {
                Next::Close(reply::error(&refusal))
            }
            Err(refusal) => Next::Reply(reply::error(&refusal)),
        };
        if self.failed_logins == failed_logins {
            return next;
        }
        // Guessing has to take long. Replies to appends leave meanwhile, by themselves.
        tokio::time::sleep(self.limits.patience.failed_login_delay).await;
        match next {
            Next::Reply(reply) if self.failed_logins >= self.limits.patience.max_failed_logins => Next::Close(reply),
            next => next,
        }
    }

    /// Finds the command, and runs it if this connection may send it.
    pub(in crate::resp) async fn dispatch(&mut self, arguments: &[Bytes]) -> Result<Next, Refusal> {
        let Some(name) = arguments.first() else { return Err(failure("empty command")) };
        let command = command_roles::find(name);
        if self.is_stranger() && !command.is_some_and(|command| command.access == Access::Anyone) {
            return Err(Refusal::new(Code::NoAuth, "log in first: AUTH shard token"));
        }
        if self.is_on_trial && Sign::of(name) == Sign::Client {
            return Ok(Next::Close(reply::error(&self.fails_trial())));
        }
        let is_listening = self.subscriptions.is_some() && self.output.protocol() == Protocol::Two;
        let is_for_listeners = |command: &Entry| LISTENERS_COMMANDS.contains(&command.command);
        if is_listening && !command.is_some_and(is_for_listeners) {
            return Err(failure(
                "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT are allowed in this context; in RESP3 others are",
            ));
        }
        let Some(command) = command else {
            return Err(failure(format!("unknown command '{}'", String::from_utf8_lossy(&name[..name.len().min(64)]))));
        };
        match command.command {
            // It checks the role itself, as it names its shard. Most commands are appends, so nothing comes before.
            Command::Append => self.append(command, arguments).await,
            // Every refusal of it has a code of its own.
            Command::Psync => Box::pin(self.psync(command, arguments)).await,
            // In a box, as a connection has room for the largest of what it may wait for, and nearly always waits for something else.
            _ => {
                self.identity.check_any(command)?;
                Box::pin(self.obey(command, arguments)).await
            }
        }
    }

    /// Runs `command`, which the login allows on some shard. Whether on the named one is checked when the shard is looked up.
    async fn obey(&mut self, command: &Entry, arguments: &[Bytes]) -> Result<Next, Refusal> {
        let answer = match command.command {
            Command::Append => return self.append(command, arguments).await,
            Command::Node => {
                let shard = self.shard(command, arguments).await?;
                return node::poll(&shard, arguments).map(|poll| Next::Poll(Box::new(poll)));
            }
            Command::Psync => return self.psync(command, arguments).await,
            Command::Replconf => match self.replica.configure(arguments)? {
                Some(answer) => answer,
                None => return Ok(Next::Later),
            },
            Command::Quit => return Ok(Next::Close(reply::ok())),
            Command::Renew => leadership_commands::renew(self.shard(command, arguments).await?, arguments).await?,
            Command::Check => {
                // Parsed first, as looking up the shard may make it.
                let check = leadership_commands::Check::parse(arguments)?;
                let shard = self.node_shard(command, arguments).await?;
                let checked = check.run(&shard).await?;
                self.identity.note_checked(&shard);
                checked
            }
            Command::Accept => leadership_commands::accept(&*self.shard(command, arguments).await?, arguments)?,
            Command::Acquire => {
                let shard = self.shard(command, arguments).await?;
                self.check_compared(&shard)?;
                leadership_commands::acquire(shard, arguments).await?
            }
            Command::Begin => leadership_commands::begin(self.shard(command, arguments).await?, arguments).await?,
            Command::Resign => leadership_commands::resign(self.shard(command, arguments).await?, arguments).await?,
            Command::Slots => {
                // Parsed first, so that a malformed one is refused as such everywhere.
                let command_of_slots = slots::SlotsCommand::parse(arguments)?;
                match command_of_slots.source() {
                    None => command_of_slots.run(&*self.shard(command, arguments).await?).await?,
                    // What becomes of another shard says nothing of the one that this connection has compared.
                    Some(source) => match self.other_shard(command, arguments, source).await {
                        Ok(source) => {
                            command_of_slots.run(&source).await.unwrap_or_else(|refusal| reply::error(&refusal))
                        }
                        Err(refusal) => reply::error(&refusal),
                    },
                }
            }
            Command::Release => {
                let shard = self.shard(command, arguments).await?;
                // The lease may last long, and a client that is gone keeps no place for that time.
                leadership_commands::release(shard, arguments, self.output.socket().hung_up()).await?
            }
            Command::Drop => admin::drop_shard(&self.service, &self.identity, command, arguments).await?,
            Command::Status => {
                let shard = self.shard(command, arguments).await?;
                admin::status(&self.service, &shard, &self.peer).await
            }
            Command::Snapshot => {
                let shard = self.shard(command, arguments).await?;
                tokio::select! {
                    snapshot = admin::snapshot(&self.service, shard) => snapshot?,
                    // A snapshot that is being made is finished all the same.
                    () = self.output.socket().hung_up() => return Err(failure("nobody waits for the snapshot any more")),
                    () = self.identity.withdrawn() => return Err(login::withdrawn()),
                }
            }
            Command::Backup => {
                let shard = self.shard(command, arguments).await?;
                tokio::select! {
                    backup = backup::backup(&self.service, shard, arguments) => backup?,
                    // The snapshot is finished all the same, without a name.
                    () = self.output.socket().hung_up() => return Err(failure("nobody waits for the backup any more")),
                    () = self.identity.withdrawn() => return Err(login::withdrawn()),
                }
            }
            Command::Audit => {
                let shard = self.shard(command, arguments).await?;
                tokio::select! {
                    report = audit::audit(&self.service, shard, arguments) => report?,
                    // Either ends the audit.
                    () = self.output.socket().hung_up() => return Err(failure("nobody waits for the audit any more")),
                    () = self.identity.withdrawn() => return Err(login::withdrawn()),
                }
            }
            Command::AuditResult => audit::result(self.shard(command, arguments).await?, arguments).await?,
            Command::Shards => admin::shards(&self.service, &self.identity),
            Command::Cluster => cluster::run(&self.service, &self.identity, command, arguments).await?,
            Command::Debug => {
                let (shard, mode) = admin::parse_debug(&self.service, arguments)?;
                admin::debug(&self.shard_named(command, shard).await?, mode)?
            }
            Command::Info => admin::info(&self.service, &self.identity),
            Command::Sentinel => sentinel::answer(&self.service, &self.identity, arguments)?,
            Command::Role => sentinel::role(&self.service, &self.identity),
            Command::Subscribe => self.subscribe(arguments)?,
            Command::Command => reply::array(Vec::new()),
            Command::Select => match arguments.get(1).is_some_and(|index| &index[..] == b"0") {
                true => reply::ok(),
                false => return Err(failure("there is only database 0")),
            },
            Command::Client => self.client(&arguments[1..])?,
            Command::Auth => self.authenticate(&arguments[1..])?,
            Command::Hello => self.hello(&arguments[1..])?,
            Command::Ping => self.ping(arguments),
        };
        Ok(Next::Reply(answer))
    }

    async fn append(&mut self, command: &Entry, arguments: &[Bytes]) -> Result<Next, Refusal> {
        let append = AppendCommand::parse(arguments)?;
        let shard = append.shard;
        self.identity.check(command, shard)?;
        let arrived = self.clock.last_read();
        self.output.append(self.shard_named(command, shard), append, arrived).await?;
        Ok(Next::Later)
    }

    async fn psync(&mut self, command: &Entry, arguments: &[Bytes]) -> Result<Next, Refusal> {
        self.identity.check_any(command).map_err(replica::try_later)?;
        let Some(name) = self.identity.named_shard() else {
            let refusal = Refusal::new(Code::NoAuth, "name the shard with primaryuser and primaryauth");
            return Err(replica::try_later(refusal));
        };
        if !self.output.is_unused() {
            return Err(failure("PSYNC needs a connection of its own"));
        }
        let shard = self.shard_named(command, name).await.map_err(replica::try_later)?;
        shard.check_engine(self.replica.version()).map_err(replica::try_later)?;
        let position =
            replica::find_position(&shard, self.identity.follows(), arguments).map_err(replica::try_later)?;
        Ok(Next::Follow(shard, position))
    }
}
