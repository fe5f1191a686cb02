//! For tests: a driver without a thread. Whoever has it says when it reads what it was told, when time passes, and when it works. So a
//! simulation can draw what happens when, and a seed gives the same steps each time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::fetches::Fetches;
use super::inbox::{Inbox, Input};
use super::thread::{Thread, Turns};
use super::{Driver, Network};
use crate::replica::group::Group;

/// What the thread of a driver does, step by step.
pub struct ByHand {
    thread: Thread,
    inbox: Arc<Inbox>,
    /// What was taken from the inbox, and not read yet.
    inputs: VecDeque<Input>,
}

impl Driver {
    /// A driver without a thread, and what does the thread's work. Whatever waits for the thread waits for that.
    pub fn by_hand(member: u64, network: Arc<dyn Network>) -> (Self, ByHand) {
        let inbox = Arc::new(Inbox::default());
        let turns = Arc::new(Turns::by_hand(inbox.clone()));
        let thread = Thread::new(inbox.clone(), network, Fetches::by_hand());
        let driver = Driver { member, inbox: inbox.clone(), turns, thread: None.into() };
        (driver, ByHand { thread, inbox, inputs: VecDeque::new() })
    }
}

impl ByHand {
    /// How much was told and not read.
    pub fn waiting(&mut self) -> usize {
        if self.inputs.is_empty() {
            self.inbox.take(Instant::now(), &mut self.inputs);
            self.inbox.give_back();
        }
        self.inputs.len()
    }

    /// Reads at most so much of what was told.
    pub fn read(&mut self, most: usize) {
        let count = self.waiting().min(most);
        let inputs: Vec<Input> = self.inputs.drain(..count).collect();
        inputs.into_iter().for_each(|input| self.thread.take(input));
    }

    /// Time passes for all groups.
    pub fn tick(&mut self) {
        self.thread.tick();
    }

    /// Does what is to be done. `unix_ms` is the time that new entries are given.
    pub fn work(&mut self, unix_ms: u64) {
        self.thread.work(unix_ms);
    }

    /// The groups.
    pub fn groups(&mut self) -> impl Iterator<Item = &mut Group> {
        self.thread.groups()
    }

    /// Ends as the thread does when the service stops: all that wait are answered.
    pub fn stop(mut self) {
        self.inbox.close();
        // What was taken and not read comes before what was told since.
        let mut inputs = std::mem::take(&mut self.inputs);
        self.waiting();
        inputs.append(&mut self.inputs);
        self.thread.end(inputs);
    }
}
