//! For tests: three services in one process, over a network and disks in memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft::eraftpb::{ConfState, Message};

use super::{DrivenGroup, Driver, Network};
use crate::replica::copy::{Base, Checkpoint, CopyDisks, Install, Position};
use crate::replica::group::Event;
use crate::replica::handle::{GroupEvents, GroupHandle, View};
use crate::replica::memory_copy::MemoryDisks;

/// A group's name.
pub const GROUP: &str = "s1";
/// What nothing takes on a busy machine.
pub const LONG_ENOUGH: Duration = Duration::from_secs(30);

/// Where a group of three begins.
pub fn beginning() -> Install {
    let members = ConfState { voters: (0..3).map(member_of).collect(), ..ConfState::default() };
    let position = Position { index: 1, term: 1, ..Position::default() };
    let checkpoint = Checkpoint {
        position,
        revision: 1,
        epoch: 0,
        state: Bytes::from_static(b"first"),
        state_index: 1,
        members: vec![(1, members.clone())],
    };
    Install { base: Base { position, members }, checkpoint }
}

fn member_of(node: usize) -> u64 {
    100 + node as u64
}

/// A network in memory.
#[derive(Default)]
pub struct MemoryNetwork {
    drivers: Mutex<HashMap<u64, Weak<Driver>>>,
    cut_off: Mutex<HashSet<u64>>,
}

impl MemoryNetwork {
    /// From now on, `node` neither hears nor is heard, or is so again.
    pub fn cut_off(&self, node: usize, is_cut_off: bool) {
        let (mut cut_off, member) = (lock(&self.cut_off), member_of(node));
        if is_cut_off {
            cut_off.insert(member);
        } else {
            cut_off.remove(&member);
        }
    }
}

impl Network for MemoryNetwork {
    fn send(&self, group: &str, message: Message) {
        let cut_off = lock(&self.cut_off);
        if cut_off.contains(&message.from) || cut_off.contains(&message.to) {
            return;
        }
        drop(cut_off);
        let to = lock(&self.drivers).get(&message.to).and_then(Weak::upgrade);
        if let Some(driver) = to {
            driver.message(message.from, group, message);
        }
    }
}

/// Remembers what happens to a group.
#[derive(Default)]
pub struct Heard {
    state: Mutex<(View, Option<String>)>,
    changed: Condvar,
}

impl Heard {
    /// Waits until the group is so.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&View) -> bool) {
        let state = lock(&self.state);
        let wait = self.changed.wait_timeout_while(state, LONG_ENOUGH, |(view, _)| !is_so(view));
        let (state, waited) = wait.unwrap_or_else(|poisoned| poisoned.into_inner());
        assert!(!waited.timed_out(), "{what}: it is {state:?}");
    }

    /// Waits until the group has stopped, and says why.
    pub fn wait_until_stopped(&self) -> String {
        let state = lock(&self.state);
        let wait = self.changed.wait_timeout_while(state, LONG_ENOUGH, |(_, stopped)| stopped.is_none());
        wait.unwrap_or_else(|poisoned| poisoned.into_inner()).0 .1.clone().expect("the group stops")
    }
}

impl GroupEvents for Heard {
    fn happened(&self, _event: &Event, view: &View) {
        lock(&self.state).0 = view.clone();
        self.changed.notify_all();
    }

    fn stopped(&self, reason: &str) {
        lock(&self.state).1 = Some(reason.to_owned());
        self.changed.notify_all();
    }
}

struct Node {
    disks: Arc<MemoryDisks>,
    driver: Option<Arc<Driver>>,
    groups: HashMap<String, (Arc<DrivenGroup>, Arc<Heard>)>,
}

/// Three services.
pub struct Three {
    net: Arc<MemoryNetwork>,
    nodes: Vec<Node>,
}

impl Three {
    pub fn new() -> Self {
        let node = || Node { disks: MemoryDisks::new(), driver: None, groups: HashMap::new() };
        let mut three = Three { net: Arc::default(), nodes: (0..3).map(|_| node()).collect() };
        (0..3).for_each(|node| three.start(node));
        three
    }

    pub fn net(&self) -> &MemoryNetwork {
        &self.net
    }

    pub fn member(&self, node: usize) -> u64 {
        member_of(node)
    }

    pub fn disk(&self, node: usize) -> &MemoryDisks {
        &self.nodes[node].disks
    }

    pub fn driver(&self, node: usize) -> &Driver {
        self.nodes[node].driver.as_deref().expect("it runs")
    }

    /// Starts a service, without groups.
    pub fn start(&mut self, node: usize) {
        let driver = Arc::new(Driver::start(member_of(node), self.net.clone()).expect("a thread"));
        lock(&self.net.drivers).insert(member_of(node), Arc::downgrade(&driver));
        self.nodes[node].driver = Some(driver);
    }

    /// A service and its machine stop: what is not on its disk is lost.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].disks.crash();
        self.driver(node).stop();
        self.nodes[node].driver = None;
        self.nodes[node].groups.clear();
    }

    /// Makes a group, and opens its copies.
    pub fn open_all(&mut self, name: &str) {
        for node in 0..3 {
            self.nodes[node].disks.create(name, &beginning()).expect("created");
            self.open(node, name);
        }
    }

    /// Opens the copy of one service.
    pub fn open(&mut self, node: usize, name: &str) {
        let opened = self.driver(node).open(&*self.nodes[node].disks, name);
        let group = opened.expect("it can be opened").expect("there is a copy");
        let heard = Arc::new(Heard::default());
        let view = group.listen(heard.clone());
        let mut state = lock(&heard.state);
        if state.0 == View::default() {
            state.0 = view;
        }
        drop(state);
        self.nodes[node].groups.insert(name.to_owned(), (group, heard));
    }

    pub fn group(&self, node: usize, name: &str) -> Arc<DrivenGroup> {
        self.nodes[node].groups[name].0.clone()
    }

    pub fn heard(&self, node: usize, name: &str) -> Arc<Heard> {
        self.nodes[node].groups[name].1.clone()
    }

    /// Waits until one of `nodes` decides.
    pub fn leader(&self, name: &str, nodes: &[usize]) -> usize {
        let since = Instant::now();
        loop {
            let leads = |&&node: &&usize| self.group(node, name).view().leads_in.is_some();
            if let Some(&node) = nodes.iter().find(leads) {
                return node;
            }
            let statuses = || nodes.iter().map(|&node| self.group(node, name).status()).collect::<Vec<_>>();
            assert!(since.elapsed() < LONG_ENOUGH, "somebody decides: {:?}", statuses());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Drops log below `offset` at a service, at least the entries up to `index`: as soon as its checkpoint is on the disk.
    pub fn trim(&self, node: usize, offset: u64, index: u64) {
        let since = Instant::now();
        while self.disk(node).entries_of(GROUP).first().is_some_and(|entry| entry.index <= index) {
            assert!(since.elapsed() < LONG_ENOUGH, "it can be trimmed");
            self.group(node, GROUP).trim(offset).expect("trimmed");
        }
    }

    /// CPU time of this process's threads that drive groups.
    pub fn cpu_of_drivers(&self) -> Duration {
        let tasks = std::fs::read_dir("/proc/self/task").expect("this process's threads");
        let nanoseconds = tasks.filter_map(|task| {
            let task = task.ok()?.path();
            let name = std::fs::read_to_string(task.join("comm")).ok()?;
            let times = std::fs::read_to_string(task.join("schedstat")).ok()?;
            (name.trim() == "log-replicate").then(|| times.split(' ').next()?.parse::<u64>().ok()).flatten()
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
