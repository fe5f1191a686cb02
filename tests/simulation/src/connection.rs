//! Connections to the service. What is sent on one arrives in order, both ways, and it can break off at any message. A connection that its
//! caller has given up may still hold requests, which the first ones on its next connection can overtake.
//!
//! This is what the real ones do. The service takes in a command of a connection when the one before is answered, or is an append that was
//! submitted, and gives the replies in the order of the commands (`logservice/src/resp/connection/`, `logservice/src/resp/append.rs`). A node
//! reads its answers in order, and none after one that ends the connection (`src/log/append_link.rs`, `src/log/control.rs`).

use std::collections::VecDeque;

use durability_protocol::Refusal;

use crate::message::{Answer, Caller, NodeIndex, Request};

/// Messages that are on their way at a time: beyond that the oldest connection that has some breaks off.
const MAX_MESSAGES: usize = 64;

/// What a node uses a connection for. It has one for each at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Many appends at a time.
    Appends,
    /// `LOG.RENEW`
    Renewals,
    /// `LOG.NODE`
    Polls,
    /// Everything else.
    Questions,
}

impl Purpose {
    /// On which connection a request goes out.
    pub fn of(request: &Request) -> Self {
        match request {
            Request::Append { .. } => Purpose::Appends,
            Request::Renew { .. } => Purpose::Renewals,
            Request::Poll { .. } => Purpose::Polls,
            _ => Purpose::Questions,
        }
    }
}

/// An answer with what was asked.
pub type Told = (Request, Result<Answer, Refusal>);

/// A connection.
pub struct Connection {
    /// No other has it.
    pub number: u64,
    /// Who has opened it.
    pub caller: Caller,
    /// For what.
    pub purpose: Purpose,
    /// On their way to the service.
    pub requests: VecDeque<Request>,
    /// On their way to the caller.
    pub answers: VecDeque<Told>,
    /// It has broken off: nothing more is sent on it. What was sent before may arrive.
    is_cut: bool,
    /// The caller has another one, and hears nothing more on this one.
    is_given_up: bool,
}

/// All connections.
#[derive(Default)]
pub struct Connections {
    all: Vec<Connection>,
    opened: u64,
}

impl Connections {
    /// Opens one in place of the one that the caller has for that.
    pub fn open(&mut self, caller: Caller, purpose: Purpose) -> u64 {
        self.give_up(|connection| connection.caller == caller && connection.purpose == purpose);
        self.opened += 1;
        let (requests, answers, number) = (VecDeque::new(), VecDeque::new(), self.opened);
        self.all.push(Connection { number, caller, purpose, requests, answers, is_cut: false, is_given_up: false });
        number
    }

    /// The one that the caller has for that, if it is not broken.
    pub fn whole(&self, caller: Caller, purpose: Purpose) -> Option<u64> {
        let is_it = |connection: &&Connection| {
            connection.caller == caller
                && connection.purpose == purpose
                && !connection.is_given_up
                && !connection.is_cut
        };
        self.all.iter().find(is_it).map(|connection| connection.number)
    }

    /// A process is gone.
    pub fn process_ended(&mut self, ended: NodeIndex) {
        self.give_up(|connection| matches!(connection.caller, Caller::Node { index, .. } if index == ended));
    }

    fn give_up(&mut self, which: impl Fn(&Connection) -> bool) {
        for connection in self.all.iter_mut().filter(|connection| which(connection)) {
            connection.is_given_up = true;
            connection.answers.clear();
        }
        self.forget_those_without_use();
    }

    /// Breaks one off at this point. Whether it was whole.
    pub fn cut(&mut self, number: u64) -> bool {
        let was_cut = self.find(number).is_none_or(|connection| std::mem::replace(&mut connection.is_cut, true));
        self.forget_those_without_use();
        !was_cut
    }

    /// The service is gone: nothing that was sent to it arrives, what it has answered does.
    pub fn cut_all(&mut self) {
        for connection in &mut self.all {
            connection.is_cut = true;
            connection.requests.clear();
        }
        self.forget_those_without_use();
    }

    /// Sends a request.
    pub fn send(&mut self, number: u64, request: Request) {
        self.make_room();
        if let Some(connection) = self.find(number).filter(|connection| !connection.is_cut) {
            connection.requests.push_back(request);
        }
    }

    /// Sends an answer.
    pub fn answer(&mut self, number: u64, told: Told) {
        self.make_room();
        let hears = |connection: &&mut Connection| !connection.is_cut && !connection.is_given_up;
        if let Some(connection) = self.find(number).filter(hears) {
            connection.answers.push_back(told);
        }
    }

    /// Takes the request at that place, the first one if order is kept.
    pub fn take_request(&mut self, number: u64, at: usize) -> Option<(Caller, Request)> {
        let connection = self.find(number)?;
        let taken = connection.requests.remove(at).map(|request| (connection.caller, request));
        self.forget_those_without_use();
        taken
    }

    /// Takes the answer at that place, the first one if order is kept.
    pub fn take_answer(&mut self, number: u64, at: usize) -> Option<(Caller, Told)> {
        let connection = self.find(number)?;
        let taken = connection.answers.remove(at).map(|told| (connection.caller, told));
        self.forget_those_without_use();
        taken
    }

    /// Those on which something is on its way, and those that their callers have.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.all.iter()
    }

    fn find(&mut self, number: u64) -> Option<&mut Connection> {
        self.all.iter_mut().find(|connection| connection.number == number)
    }

    fn make_room(&mut self) {
        let messages: usize = self.all.iter().map(Connection::messages).sum();
        let oldest = self.all.iter_mut().find(|connection| connection.messages() > 0);
        if let Some(oldest) = oldest.filter(|_| messages >= MAX_MESSAGES) {
            oldest.is_cut = true;
            oldest.requests.clear();
            oldest.answers.clear();
        }
    }

    fn forget_those_without_use(&mut self) {
        self.all.retain(|connection| connection.messages() > 0 || !connection.is_cut && !connection.is_given_up);
    }
}

impl Connection {
    fn messages(&self) -> usize {
        self.requests.len() + self.answers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(offset: u64) -> Request {
        Request::Append { epoch: 1, offset, payload: Vec::new().into() }
    }

    #[test]
    fn what_is_sent_before_a_connection_breaks_off_arrives_in_order_and_is_not_answered_once_there_is_another() {
        let caller = Caller::Node { index: 0, life: 0 };
        let mut connections = Connections::default();
        let first = connections.open(caller, Purpose::Appends);
        [0, 10].into_iter().for_each(|offset| connections.send(first, append(offset)));
        assert!(connections.cut(first) && !connections.cut(first));
        connections.send(first, append(20));
        assert_eq!(connections.whole(caller, Purpose::Appends), None);
        let second = connections.open(caller, Purpose::Appends);
        connections.send(second, append(0));
        let mut offset = |number| match connections.take_request(number, 0) {
            Some((_, Request::Append { offset, .. })) => Some(offset),
            _ => None,
        };
        assert_eq!([second, first, first, first].map(&mut offset), [Some(0), Some(0), Some(10), None]);
        let told = || (append(0), Ok(Answer::Done));
        connections.answer(first, told());
        connections.answer(second, told());
        assert!(connections.take_answer(first, 0).is_none() && connections.take_answer(second, 0).is_some());
    }
}
