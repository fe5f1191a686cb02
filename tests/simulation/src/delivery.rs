//! What is sent, and what arrives next.

use crate::connection::{Connection, Purpose, Told};
use crate::message::{Caller, Request};
use crate::rules::NodeRule;
use crate::world::World;

/// A message that can arrive next: the connection, and the place on it.
#[derive(Debug, Clone, Copy)]
enum Next {
    Request(u64, usize),
    Answer(u64, usize),
}

impl World {
    /// A command is sent to the service, if there is one to connect to.
    pub(crate) fn ask(&mut self, caller: Caller, request: Request) {
        self.trace(|_| format!("{caller:?} sends {request:?}"));
        if self.service.is_none() {
            return;
        }
        let purpose = Purpose::of(&request);
        let Some(number) = self.connection_for(caller, purpose) else { return };
        let is_nodes = matches!(caller, Caller::Node { .. });
        if is_nodes && purpose != Purpose::Appends && self.draw.chance(self.profile.asked_again) {
            self.send(number, request.clone());
            let number = self.connections.open(caller, purpose);
            self.send(number, request);
        } else {
            self.send(number, request);
        }
    }

    /// The connection on which a request goes out. None if an append does not: its connection is found to have broken off.
    fn connection_for(&mut self, caller: Caller, purpose: Purpose) -> Option<u64> {
        let whole = self.connections.whole(caller, purpose);
        let is_open = whole.is_some();
        let number = match caller {
            Caller::Node { index, .. } if purpose == Purpose::Appends => {
                let leading = self.nodes[index].leading.as_mut()?;
                if std::mem::take(&mut leading.connects_anew) {
                    None
                } else if is_open || self.draw.chance(500) {
                    // One that has broken off may not be found out yet: then this append goes nowhere.
                    return whole;
                } else {
                    leading.connect_anew();
                    return None;
                }
            }
            Caller::Node { .. } => whole.filter(|_| !self.draw.chance(self.profile.reconnects)),
            Caller::Operator | Caller::Clone => None,
        };
        Some(number.unwrap_or_else(|| self.connections.open(caller, purpose)))
    }

    fn send(&mut self, number: u64, request: Request) {
        if !self.breaks_off(number) {
            self.connections.send(number, request);
        }
    }

    /// A node is answered.
    pub(crate) fn answer(&mut self, number: u64, told: Told) {
        if !self.breaks_off(number) {
            self.connections.answer(number, told);
        }
    }

    /// Whether the connection breaks off instead of taking a message.
    fn breaks_off(&mut self, number: u64) -> bool {
        let breaks = self.draw.chance(self.profile.lost);
        self.promises.seen.cuts += u64::from(breaks && self.connections.cut(number));
        breaks
    }

    /// How many messages can arrive.
    pub(crate) fn deliverable(&self) -> usize {
        self.connections.iter().map(|connection| self.next_on(connection).count()).sum()
    }

    fn next_on<'a>(&'a self, connection: &'a Connection) -> impl Iterator<Item = Next> + 'a {
        let keeps_order = self.broken != Some(NodeRule::KeepsOrder);
        let most = if keeps_order { 1 } else { usize::MAX };
        let number = connection.number;
        let takes = move |request: &Request| {
            let service = self.service.as_ref();
            service.is_some_and(|service| !keeps_order || service.may_take_in(number, request))
        };
        let requests = connection.requests.iter().enumerate().take(most);
        let requests =
            requests.filter(move |(_, request)| takes(request)).map(move |(at, _)| Next::Request(number, at));
        // They wait for a node that stands still.
        let now = self.clock.elapsed_ns();
        let hears = match connection.caller {
            Caller::Node { index, .. } => self.nodes[index].stands_until <= now,
            Caller::Operator | Caller::Clone => false,
        };
        let answers = (0..connection.answers.len()).take(if hears { most } else { 0 });
        requests.chain(answers.map(move |at| Next::Answer(number, at)))
    }

    pub(crate) fn deliver(&mut self) {
        let next: Vec<Next> = self.connections.iter().flat_map(|connection| self.next_on(connection)).collect();
        if next.is_empty() {
            return;
        }
        match self.draw.pick(&next) {
            Next::Request(number, at) => {
                let random = self.draw.number() as u32;
                let (Some((caller, mut request)), Some(service)) =
                    (self.connections.take_request(number, at), self.service.as_mut())
                else {
                    return;
                };
                self.promises.slots.is_asked(&mut request);
                service.take_in(number, caller, request, random);
            }
            Next::Answer(number, at) => {
                let Some((Caller::Node { index, life }, told)) = self.connections.take_answer(number, at) else {
                    return;
                };
                self.hear(index, life, told);
            }
        }
    }

    fn hear(&mut self, index: usize, life: u32, (request, answer): Told) {
        let now = self.clock.elapsed_ns();
        let node = &mut self.nodes[index];
        // A leader that is to connect anew, or that has just come to lead, has no connection on which it could hear.
        let has_none = node.leading.as_ref().is_some_and(|leading| leading.connects_anew);
        if node.life != life || has_none && Purpose::of(&request) == Purpose::Appends {
            return;
        }
        if let Some(request) = node.hear(request, answer, now, &mut self.draw, self.broken) {
            self.ask(Caller::Node { index, life }, request);
        }
    }
}
