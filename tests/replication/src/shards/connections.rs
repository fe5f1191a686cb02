//! What nodes and services send each other, and in which order it arrives.

use durability_simulation::connection::{Connection, Purpose, Told};
use durability_simulation::message::{Caller, Request};

use super::world::World;
use crate::network::MEMBERS;

impl World {
    /// A node sends a command, on the connection that it has for that or on a new one.
    pub(super) fn ask(&mut self, index: usize, life: u32, request: Request) {
        self.trace(|_| format!("node {index} sends {request:?}"));
        let (caller, purpose) = (Caller::Node { index, life }, Purpose::of(&request));
        let mut whole = self.connections.whole(caller, purpose);
        if purpose == Purpose::Appends {
            let Some(leading) = self.nodes[index].leading.as_mut() else { return };
            if std::mem::take(&mut leading.connects_anew) {
                whole = None;
            } else if whole.is_none() {
                return leading.connect_anew();
            }
        } else if self.draw.chance(self.nodes_profile.reconnects / 4) {
            whole = None;
        }
        let number = whole.or_else(|| self.connect(caller, purpose));
        let Some(number) = number else {
            // Nobody takes it: what is not acknowledged is sent again.
            let leading = self.nodes[index].leading.as_mut().filter(|_| purpose == Purpose::Appends);
            return leading.into_iter().for_each(|leading| leading.connect_anew());
        };
        if self.draw.chance(self.nodes_profile.lost) {
            self.promises.seen.cuts += u64::from(self.connections.cut(number));
        }
        self.connections.send(number, request);
    }

    /// Connects to the service that decides, as far as any other knows, or to any.
    fn connect(&mut self, caller: Caller, purpose: Purpose) -> Option<u64> {
        let drawn = self.draw.below(MEMBERS);
        let decider = if self.draw.chance(700) { self.decider() } else { None };
        let to = decider.unwrap_or(drawn);
        let route = (to, self.services[to].life.as_mut()?.shard().life);
        let number = self.connections.open(caller, purpose);
        self.routes.insert(number, route);
        Some(number)
    }

    pub(crate) fn answer(&mut self, number: u64, told: Told) {
        if self.draw.chance(self.nodes_profile.lost) {
            self.promises.seen.cuts += u64::from(self.connections.cut(number));
        }
        self.connections.answer(number, told);
    }

    /// The connections on which something can arrive, and whether that is a request.
    pub(super) fn deliverable(&self) -> Vec<(u64, bool)> {
        let now = self.now();
        let next = |connection: &Connection| {
            let to = self.routes.get(&connection.number).map(|route| &self.services[route.0]);
            let takes = |request: &Request| {
                let shard = to.filter(|to| to.stands_until <= now).and_then(|to| to.life.as_ref()?.shards.last());
                shard.is_some_and(|shard| shard.may_take_in(connection.number, request))
            };
            let request = connection.requests.front().is_some_and(takes).then_some((connection.number, true));
            let hears = match connection.caller {
                Caller::Node { index, .. } => self.nodes[index].stands_until <= now,
                Caller::Operator | Caller::Clone => false,
            };
            let answer = (hears && !connection.answers.is_empty()).then_some((connection.number, false));
            request.into_iter().chain(answer).collect::<Vec<_>>()
        };
        self.connections.iter().flat_map(next).collect()
    }

    pub(super) fn deliver(&mut self) {
        let next = self.deliverable();
        if next.is_empty() {
            return;
        }
        let (number, is_request) = self.draw.pick(&next);
        if !is_request {
            let Some((Caller::Node { index, life }, (request, answer))) = self.connections.take_answer(number, 0)
            else {
                return;
            };
            let (now, node) = (self.now(), &mut self.nodes[index]);
            let has_none = node.leading.as_ref().is_some_and(|leading| leading.connects_anew);
            if node.life != life || has_none && Purpose::of(&request) == Purpose::Appends {
                return;
            }
            if let Some(request) = node.hear(request, answer, now, &mut self.draw, None) {
                self.ask(index, life, request);
            }
            return;
        }
        let Some(&(to, _)) = self.routes.get(&number) else { return };
        let random = self.draw.number() as u32;
        let Some((caller, mut request)) = self.connections.take_request(number, 0) else { return };
        let Some(life) = &mut self.services[to].life else { return };
        // As every command that only who decides may answer (`resp/deciding.rs`). The node tries another service then.
        if let Err(refusal) = life.shard().shard.check_decides() {
            self.answer(number, (request, Err(refusal)));
            self.connections.cut(number);
            return;
        }
        self.promises.slots.is_asked(&mut request);
        life.shard().take_in(number, caller, request, random);
    }
}
