//! The network between the services: a queue for each direction of each pair.

use std::collections::VecDeque;

use durability_simulation::draw::Draw;
use raft::eraftpb::Message;

use crate::profile::Profile;

/// Services that have a copy at first.
pub const MEMBERS: usize = 3;
/// With the one that comes later.
const SERVICES: usize = MEMBERS + 1;
/// Messages on their way in one direction: beyond that the oldest are lost.
const MAX_IN_FLIGHT: usize = 48;

/// What is on its way.
#[derive(Default)]
pub struct Network {
    /// By sender, then receiver.
    links: [[Link; SERVICES]; SERVICES],
}

#[derive(Default)]
struct Link {
    messages: VecDeque<Message>,
    is_cut: bool,
}

impl Network {
    /// Sends a message, which may get lost, or be there twice.
    pub fn send(&mut self, from: usize, to: usize, message: Message, profile: &Profile, draw: &mut Draw) {
        let link = &mut self.links[from][to];
        if link.is_cut || draw.chance(profile.lost) {
            return;
        }
        if draw.chance(profile.doubled) {
            link.messages.push_back(message.clone());
        }
        link.messages.push_back(message);
        while link.messages.len() > MAX_IN_FLIGHT {
            link.messages.pop_front();
        }
    }

    /// How many messages are on their way to the receivers for whom `hears` is true.
    pub fn waiting(&self, hears: impl Fn(usize) -> bool) -> usize {
        let links = self.links.iter().flat_map(|links| links.iter().enumerate());
        links.filter(|&(to, _)| hears(to)).map(|(_, link)| link.messages.len()).sum()
    }

    /// Takes the next message of a direction that is drawn, as a rule the oldest, and says who receives it.
    pub fn take(
        &mut self,
        hears: impl Fn(usize) -> bool,
        profile: &Profile,
        draw: &mut Draw,
    ) -> Option<(usize, Message)> {
        let at = draw.below(SERVICES * SERVICES);
        let order = (0..SERVICES * SERVICES).map(|next| (at + next) % (SERVICES * SERVICES));
        let mut links = order.map(|link| (link / SERVICES, link % SERVICES));
        let (from, to) = links.find(|&(from, to)| hears(to) && !self.links[from][to].messages.is_empty())?;
        let messages = &mut self.links[from][to].messages;
        let at = if draw.chance(profile.reordered) { draw.below(messages.len()) } else { 0 };
        Some((to, messages.remove(at)?))
    }

    /// What is sent in that direction from now on is lost, or not any more.
    pub fn cut(&mut self, from: usize, to: usize, is_cut: bool) {
        self.links[from][to].is_cut = is_cut;
    }

    /// Whether anything is cut.
    pub fn has_cuts(&self) -> bool {
        self.links.iter().flatten().any(|link| link.is_cut)
    }

    /// Nothing is cut any more.
    pub fn mend(&mut self) {
        self.links.iter_mut().flatten().for_each(|link| link.is_cut = false);
    }

    /// What is on its way between the two is lost.
    pub fn break_connection(&mut self, one: usize, other: usize) {
        self.links[one][other].messages.clear();
        self.links[other][one].messages.clear();
    }
}
