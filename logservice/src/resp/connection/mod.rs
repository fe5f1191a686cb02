//! One connection: reads commands, runs them in order, and gives their replies in order.
//!
//! `dispatch` finds and runs a command, `lookup` finds its shard, and `session` has the commands about the connection itself.

mod dispatch;
mod lookup;
mod session;
#[cfg(test)]
mod size_tests;

use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;
use durability_protocol::{Code, Refusal};
use tokio::sync::watch;

use super::clock::{Clock, Overdue, Watch};
use super::identity::Identity;
use super::input::{Input, InputBudget};
use super::output::{Outlook, Output};
use super::replica::{self, ReplicaInfo};
use super::reply::{self, failure, Reply};
use super::sentinel::{Missed, Subscriptions};
use super::socket::Socket;
use super::{node, trial};
use crate::access::login;
use crate::access::roles::TokenRole;
use crate::base::log_throttle::{say, LineThrottle};
use crate::connections::limits::Limits;
use crate::connections::places::{Place, Places};
use crate::connections::strangers::Guest;
use crate::service::Service;
use crate::shard::{Poll, Position, Shard, Switch};

/// For lines that clients without a token can cause.
static STRANGERS: LineThrottle = LineThrottle::new();
/// For lines that clients with a token can cause.
static SLOW_READERS: LineThrottle = LineThrottle::of(50);

/// For lines that one reload can cause for every connection.
static WITHDRAWN: LineThrottle = LineThrottle::new();

/// What the connections of the port have in common.
pub struct PortState {
    /// The shards.
    pub service: Arc<Service>,
    /// What a client may do.
    pub limits: Arc<Limits>,
    /// Memory for what arrives.
    pub budget: Arc<InputBudget>,
    /// Places for known clients.
    pub places: Places,
}

/// A client's connection.
pub struct Connection {
    port: Arc<PortState>,
    service: Arc<Service>,
    limits: Arc<Limits>,
    /// Counts it while its client is not known.
    guest: Guest,
    /// Counts it once its client is known.
    place: Option<Place>,
    output: Arc<Output>,
    peer: String,
    input: Input,
    clock: Clock,
    identity: Identity,
    failed_logins: u32,
    /// The client has a place that is kept for nodes, and has not shown that it is one.
    is_on_trial: bool,
    replica: ReplicaInfo,
    /// A poll of a node that waits; no command is taken meanwhile. In a box, as most connections have none.
    poll: Option<Box<Poll>>,
    /// `None` without subscriptions. In a box for the same reason.
    subscriptions: Option<Box<Subscriptions>>,
    /// Set by `CLIENT SETNAME`.
    name: Bytes,
    closing: bool,
    id: u64,
}

/// What follows a command.
pub(super) enum Next {
    Reply(Reply),
    /// The reply comes when an append is durable.
    Later,
    /// The reply comes when the poll is due.
    Poll(Box<Poll>),
    Close(Reply),
    /// The connection is a replica from now on.
    Follow(Arc<Shard>, Position),
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(port: &Arc<PortState>, socket: Socket, peer: String, id: u64, guest: Guest) -> Self {
        let mut connection = Connection {
            port: port.clone(),
            guest,
            place: None,
            service: port.service.clone(),
            limits: port.limits.clone(),
            output: Arc::new(Output::new(socket)),
            peer,
            input: Input::new(port.budget.clone()),
            clock: Clock::new(port.limits.clone()),
            identity: Identity::new(port.service.watch_tokens()),
            failed_logins: 0,
            is_on_trial: false,
            replica: ReplicaInfo::default(),
            poll: None,
            subscriptions: None,
            name: Bytes::new(),
            closing: false,
            id,
        };
        if let Err(refusal) = connection.note_login() {
            connection.close_with(&refusal);
        }
        connection
    }

    /// Serves the connection until either side ends it. After `shutdown` nothing more is read, and the connection ends when every reply has
    /// been given.
    pub async fn serve(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut arguments: Vec<Bytes> = Vec::new();
        loop {
            let mut is_cut_short = false;
            self.close_if_withdrawn();
            while !self.closing && self.poll.is_none() {
                if !self.output.has_room() {
                    is_cut_short = true;
                    break;
                }
                match self.input.next(&mut arguments) {
                    Ok(true) => self.clock.command_is_complete(),
                    Ok(false) => break,
                    Err(error) => {
                        self.close_with(&failure(format!("Protocol error: {error}")));
                        break;
                    }
                }
                if self.close_if_withdrawn() {
                    break;
                }
                match self.run(&arguments).await {
                    Next::Reply(reply) => {
                        self.output.push(reply);
                        // Many costly commands may have arrived together. Appends yield where they wait.
                        tokio::task::coop::consume_budget().await;
                    }
                    Next::Later => {}
                    Next::Poll(poll) => {
                        self.poll = Some(poll);
                        if self.input.is_partial() {
                            self.answer_poll();
                        }
                    }
                    Next::Close(reply) => {
                        self.output.push(reply);
                        self.closing = true;
                    }
                    Next::Follow(shard, position) => return Box::pin(self.follow(shard, position, shutdown)).await,
                }
            }
            arguments.clear();
            self.input.settle();
            self.closing |= *shutdown.borrow();
            if self.closing {
                self.answer_poll();
            }
            let outlook = self.output.settle(self.closing);
            // If the client always sends, nothing below waits.
            tokio::task::coop::consume_budget().await;
            match outlook {
                Outlook::End => return,
                // There is room again for commands that have already arrived.
                Outlook::Read if is_cut_short => continue,
                Outlook::Read | Outlook::Wait => {}
            }
            let is_reading = outlook == Outlook::Read;
            let may_read = is_reading && self.input.may_read();
            if !is_reading {
                self.input.stop_waiting();
            }
            let watch = self.watch(may_read);
            self.clock.start(watch);
            tokio::select! {
                ready = self.output.socket().readable(), if may_read => {
                    match ready.and_then(|()| self.input.read(self.output.socket())) {
                        Ok(0) => return,
                        Ok(_) => {
                            self.clock.has_read();
                            self.answer_poll();
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
                () = self.input.wait_for_budget(), if is_reading && !may_read => {}
                () = self.output.changed() => {}
                () = due(&mut self.poll) => self.answer_poll(),
                // Only if there is room for the messages.
                next = next_switch(&mut self.subscriptions), if is_reading => {
                    if self.deliver(next) == Outlook::End {
                        return;
                    }
                }
                () = self.clock.tick() => {
                    if self.look_at_clock(may_read) == Outlook::End {
                        return;
                    }
                }
                // The loop begins with the consequences.
                () = self.identity.withdrawn(), if !self.closing => {}
                _ = shutdown.changed(), if !self.closing => self.closing = true,
            }
        }
    }

    fn is_stranger(&self) -> bool {
        !self.identity.is_known()
    }

    /// Takes a place for a client that has logged in or need not. Refuses it, and begins to close the connection, if there is none.
    fn note_login(&mut self) -> Result<(), Refusal> {
        let is_stranger = self.is_stranger();
        self.input.set_stranger(is_stranger);
        if is_stranger || self.place.is_some() {
            return Ok(());
        }
        self.output.set_known();
        let place = self.port.places.take();
        if place.as_ref().is_some_and(Place::is_kept) && !self.identity.may_have_kept_place() {
            self.closing = true;
            return Err(self.fails_trial());
        }
        // The connection may have been ended as a stranger's at this moment.
        let Some(place) = place.filter(|_| self.guest.leave()) else {
            self.closing = true;
            self.warn_of_stranger("refused: as many connections are open as --max-connections allows");
            return Err(failure("too many connections"));
        };
        self.is_on_trial = place.is_kept();
        self.clock.begin_trial();
        self.place = Some(place);
        Ok(())
    }

    fn close_with(&mut self, refusal: &Refusal) {
        self.output.push(reply::error(refusal));
        self.closing = true;
    }

    /// Begins to close a connection whose token is gone or has another role. What was accepted before is still acknowledged. Returns whether
    /// the connection is closing.
    fn close_if_withdrawn(&mut self) -> bool {
        if self.closing || !self.identity.is_withdrawn() {
            return self.closing;
        }
        // A poll gets that as its answer, and nothing else.
        self.poll = None;
        self.close_with(&login::withdrawn());
        if let Some(others) = WITHDRAWN.pass() {
            tracing::warn!(
                "{} disconnected: its token was removed, or has another role now ({others} more such lines left out)",
                self.peer
            );
        }
        true
    }

    fn watch(&self, is_reading: bool) -> Watch {
        Watch {
            is_stranger: self.is_stranger(),
            is_on_trial: self.is_on_trial,
            is_partial: is_reading && self.input.is_partial(),
            stalled_for: self.output.stalled_for(),
            holds_memory: self.input.holds_memory(),
        }
    }

    fn look_at_clock(&mut self, is_reading: bool) -> Outlook {
        let watch = self.watch(is_reading);
        let Some(overdue) = self.clock.look(watch) else { return Outlook::Read };
        match overdue {
            Overdue::Input => self.input.release(),
            Overdue::Output => {
                let seconds = self.limits.patience.stalled_output.as_secs_f32();
                say!(SLOW_READERS, warn, "{} disconnected: it has not read its replies for {seconds} s", self.peer);
                return Outlook::End;
            }
            // It has been told, and does not disconnect.
            Overdue::Login | Overdue::Trial | Overdue::Command if self.closing => return Outlook::End,
            Overdue::Login => {
                let seconds = self.limits.patience.login.as_secs_f32();
                self.close_with(&Refusal::new(Code::NoAuth, format!("no login within {seconds} s")));
                self.warn_of_stranger("disconnected: it did not log in");
            }
            Overdue::Trial => {
                self.close_with(&self.fails_trial());
            }
            Overdue::Command => {
                let seconds = self.limits.patience.command.as_secs_f32();
                self.close_with(&failure(format!("Protocol error: the command did not end within {seconds} s")));
                self.warn_of_stranger("disconnected: a command did not end");
            }
        }
        Outlook::Read
    }

    fn warn_of_stranger(&self, what: &str) {
        if let Some(others) = STRANGERS.pass() {
            tracing::warn!("{} {what} ({others} more such lines left out)", self.peer);
        }
    }

    /// The answer to a client in a place that is kept for nodes that is no node.
    fn fails_trial(&self) -> Refusal {
        self.warn_of_stranger("disconnected: clients hold all connections that --max-connections allows them");
        trial::refusal()
    }

    /// Answers a poll: it is due, the service stops, or the node has sent another command.
    fn answer_poll(&mut self) {
        if let Some(poll) = self.poll.take() {
            match node::answer(&poll) {
                Ok(answer) => self.output.push(answer),
                Err(refusal) => self.close_with(&refusal),
            }
        }
    }

    /// Sends the messages about a change to a subscriber, if it may see the shard.
    fn deliver(&self, next: Result<Arc<Switch>, Missed>) -> Outlook {
        let Ok(switch) = next else {
            say!(SLOW_READERS, warn, "{} disconnected: it has not read its messages", self.peer);
            return Outlook::End;
        };
        let may_see = self.identity.may(&switch.shard, TokenRole::Discover);
        for subscriptions in self.subscriptions.iter().filter(|_| may_see) {
            subscriptions.messages(&switch).into_iter().for_each(|message| self.output.push(message));
        }
        Outlook::Read
    }

    async fn follow(self, shard: Arc<Shard>, position: Position, shutdown: watch::Receiver<bool>) {
        let Some((mut stream, out)) = self.output.into_parts() else { return };
        let patience = self.limits.patience;
        if replica::send(&mut stream, &out, patience.stalled_output).await.is_err() {
            return;
        }
        let name = shard.name().to_owned();
        let listening = self.replica.listening(&self.peer);
        say!(shard.lines(), info, "shard {name}: replica {listening} attached: {position}");
        let max_pinned_bytes = self.limits.max_pinned_mb << 20;
        let follower = replica::Follower::new(stream, self.input.into_parts(), shard.clone(), self.service, patience);
        let mut identity = self.identity;
        let ended = tokio::select! {
            ended = follower.serve(position, max_pinned_bytes, shutdown) => ended,
            // The stream has no place for an error.
            () = identity.withdrawn() => Err(replica::FollowError::Withdrawn),
        };
        match ended {
            Ok(offset) => say!(shard.lines(), info, "shard {name}: replica {listening} detached at {offset}"),
            // After a change of leader the replica comes again at once. A failed log, or a missing full copy, is logged where it is found.
            Err(error @ (replica::FollowError::Restart(_) | replica::FollowError::NoCopy(_))) => {
                say!(shard.lines(), info, "shard {name}: replica {listening} detached: {error}")
            }
            Err(error) => say!(shard.lines(), warn, "shard {name}: replica {listening} detached: {error}"),
        }
    }
}

/// Waits until the poll is due; for ever if there is none. In a box, so that connections without a poll need no room for it.
async fn due(poll: &mut Option<Box<Poll>>) {
    match poll {
        Some(poll) => Box::pin(poll.due()).await,
        None => std::future::pending().await,
    }
}

/// Waits for the next change that subscribers are told of; for ever without subscriptions. In a box for the same reason.
async fn next_switch(subscriptions: &mut Option<Box<Subscriptions>>) -> Result<Arc<Switch>, Missed> {
    match subscriptions {
        Some(subscriptions) => Box::pin(subscriptions.next()).await,
        None => std::future::pending().await,
    }
}
