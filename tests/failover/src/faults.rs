//! Carries a plan out.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cluster;
use crate::leader::Finder;
use crate::link::Link;
use crate::node::Node;
use crate::notes::Notes;
use crate::plan::{Fault, Kind, Plan, Target};
use crate::service_faults::ServiceRemedy;
use crate::shard::Shard;
use crate::system::System;

/// How often it is looked whether a process has ended by itself.
const LOOK: Duration = Duration::from_millis(100);
/// Which packets of the bus a node passes over: none, and all.
const HEARS_ALL: &str = "-1";
const HEARS_NOTHING: &str = "-2";
/// A node saves its data for the first time.
const FIRST_SAVE: Duration = Duration::from_millis(500);

/// A node of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    shard: usize,
    node: usize,
}

/// How often what was done.
pub type Counts = BTreeMap<Kind, usize>;

/// What mends something.
#[derive(Debug, Clone)]
pub(crate) enum Remedy {
    Start {
        at: At,
        with_old_rdb: bool,
    },
    Continue(At),
    HealLogLinks(At),
    HealClientLink(At),
    HealBus(At),
    OfService(ServiceRemedy),
    /// Nothing is broken: a node saves its data, for the next time that one is started with an old RDB.
    Save(At),
}

pub(crate) struct Work<'a> {
    pub(crate) system: &'a mut System,
    finder: &'a Finder,
    pub(crate) notes: &'a Notes,
    remedies: Vec<(Instant, Remedy)>,
    counts: Counts,
    /// Of each shard.
    last_leaders: Vec<usize>,
    pub(crate) last_decider: usize,
    /// Whether a log service has lost its disk. Until another one has its place, and all that it had, no second disk may be lost.
    pub(crate) is_replacing: bool,
}

/// Does all that is planned, from now on. In the end nothing is broken. Ends early if clients are to stop.
///
/// # Errors
/// A process has ended by itself, or cannot be started.
pub fn inflict(system: &mut System, plan: &Plan, finder: &Finder, notes: &Notes) -> Result<Counts> {
    let began = Instant::now();
    let shards = system.shards.len();
    let remedies = (0..shards).map(|shard| (began + FIRST_SAVE, Remedy::Save(At { shard, node: 0 }))).collect();
    let last_leaders = vec![0; shards];
    let counts = Counts::new();
    let mut work = Work { system, finder, notes, remedies, counts, last_leaders, last_decider: 0, is_replacing: false };
    for fault in &plan.0 {
        work.mend_until(began + fault.at)?;
        work.begin(fault)?;
    }
    // A remedy may have others in its train.
    while let Some(last) = work.remedies.iter().map(|(at, _)| *at).max() {
        work.mend_until(last)?;
    }
    Ok(work.counts)
}

impl Work<'_> {
    /// Mends what is due until then, and looks after everybody.
    fn mend_until(&mut self, until: Instant) -> Result<()> {
        loop {
            let now = if self.finder.is_over() { until } else { Instant::now() };
            self.remedies.sort_by_key(|(at, _)| *at);
            while self.remedies.first().is_some_and(|(at, _)| *at <= now) {
                let (_, remedy) = self.remedies.remove(0);
                self.mend(remedy)?;
            }
            self.system.check_alive()?;
            if now >= until {
                return Ok(());
            }
            let next = self.remedies.first().map_or(until, |(at, _)| until.min(*at));
            thread::sleep((next - now).min(LOOK));
        }
    }

    fn mend(&mut self, remedy: Remedy) -> Result<()> {
        match remedy {
            // What was started for another reason meanwhile runs already.
            Remedy::Start { at, .. } if self.node(at).is_started => return Ok(()),
            Remedy::Start { at, with_old_rdb: true } => self.shard(at).start_node_with_old_rdb(at.node)?,
            Remedy::Start { at, with_old_rdb: false } => self.shard(at).start_node(at.node)?,
            Remedy::Continue(at) if self.node(at).is_started => self.node(at).process.go_on()?,
            Remedy::Continue(_) => return Ok(()),
            Remedy::HealLogLinks(at) => self.node(at).log_links.iter().for_each(Link::heal),
            Remedy::HealClientLink(at) => self.node(at).client_link.heal(),
            Remedy::HealBus(at) => {
                let node = self.node(at);
                node.bus_link.iter().for_each(Link::heal);
                // One that does not run hears again when it is started.
                let heard = node.command("DEBUG", &["DROP-CLUSTER-PACKET-FILTER", HEARS_ALL]);
                if node.is_started && heard.is_err() {
                    // It stands still.
                    self.mend_after(LOOK, Remedy::HealBus(at));
                    return Ok(());
                }
            }
            Remedy::OfService(remedy) => return self.mend_service(remedy),
            Remedy::Save(at) => self.shard(at).save_old_rdb(at.node)?,
        }
        self.notes.add(&format!("{remedy:?}"));
        Ok(())
    }

    fn shard(&mut self, at: At) -> &mut Shard {
        &mut self.system.shards[at.shard]
    }

    fn node(&mut self, at: At) -> &mut Node {
        &mut self.system.shards[at.shard].nodes[at.node]
    }

    /// Who leads a shard, or did when somebody last looked.
    fn leader_of(&mut self, shard: usize) -> At {
        let node = self.system.shards[shard].leader().unwrap_or(self.last_leaders[shard]);
        self.last_leaders[shard] = node;
        At { shard, node }
    }

    fn begin(&mut self, fault: &Fault) -> Result<()> {
        if fault.kind == Kind::Replace && self.is_replacing {
            return Ok(());
        }
        *self.counts.entry(fault.kind).or_default() += 1;
        let leader = self.leader_of(fault.of_cluster.as_ref().map_or(0, |of_cluster| of_cluster.shard));
        let at = match fault.target {
            Target::Leader => leader,
            Target::Other(after) => At { node: self.shard(leader).after(leader.node, after), ..leader },
        };
        let service = self.service_of(fault);
        let (name, leader_name) = (self.node(at).name.clone(), self.node(leader).name.clone());
        self.notes.add(&format!(
            "{:?} {name} for {:.0?} ({leader_name} leads), log{service} for {:.0?} (log{} decides)",
            fault.kind, fault.lasts[at.node], fault.lasts[service], self.last_decider
        ));
        let Fault { ways, delay, .. } = fault;
        match fault.kind {
            Kind::Kill => self.kill(fault, at, false)?,
            Kind::OldRdb => {
                self.kill(fault, at, true)?;
                let saved = Instant::now() + fault.lasts[at.node] / 2;
                let next = At { node: self.shard(at).after(at.node, 1), ..at };
                self.remedies.push((saved, Remedy::Save(next)));
            }
            Kind::Stop => {
                if self.node(at).is_started {
                    self.node(at).process.stall()?;
                    self.mend_later(fault, at.node, Remedy::Continue(at));
                }
            }
            Kind::LogCut | Kind::LogStall | Kind::LogSlow => {
                let is_alone = fault.of_services.as_ref().is_some_and(|of_services| of_services.is_alone);
                let links = self.node(at).log_links.iter().enumerate();
                for (_, link) in links.filter(|(to, _)| !is_alone || *to == service) {
                    match fault.kind {
                        Kind::LogCut => link.cut(),
                        Kind::LogStall => link.stall(ways),
                        _ => link.slow(ways, *delay),
                    }
                }
                self.mend_later(fault, at.node, Remedy::HealLogLinks(at));
            }
            Kind::ClientCut | Kind::ClientStall | Kind::ClientSlow => {
                let link = &self.node(at).client_link;
                match fault.kind {
                    Kind::ClientCut => link.cut(),
                    Kind::ClientStall => link.stall(ways),
                    _ => link.slow(ways, *delay),
                }
                self.mend_later(fault, at.node, Remedy::HealClientLink(at));
            }
            Kind::LogKill => self.kill_services(fault)?,
            Kind::Handover => self.hand_over(fault, leader),
            Kind::KillAll => self.kill_all(fault, leader.shard)?,
            Kind::Blackout => {
                self.kill_services(fault)?;
                (0..self.system.shards.len()).try_for_each(|shard| self.kill_all(fault, shard))?;
            }
            Kind::ZoneKill => {
                // That of the service, or that of the leader: the drawn node if that leads.
                let zone = if fault.target == Target::Leader { leader.node } else { service };
                self.kill_service(fault, zone)?;
                if zone < self.shard(leader).nodes.len() {
                    self.kill(fault, At { node: zone, ..leader }, false)?;
                }
            }
            _ if fault.kind >= Kind::TwoLeaders && fault.kind < Kind::DiskLie => self.begin_in_cluster(fault, at)?,
            _ => self.begin_at_service(fault, service)?,
        }
        Ok(())
    }

    /// What is done to nodes of a cluster alone.
    fn begin_in_cluster(&mut self, fault: &Fault, at: At) -> Result<()> {
        let Fault { kind, ways, delay, of_cluster, .. } = fault;
        let Some(of_cluster) = of_cluster else { return Ok(()) };
        match kind {
            Kind::TwoLeaders => {
                for shard in [of_cluster.shard, of_cluster.other] {
                    let leader = self.leader_of(shard);
                    self.kill(fault, leader, false)?;
                }
            }
            Kind::Migrate => {
                let tags = self.finder.tags_in_use();
                let asked = cluster::migrate(self.system, of_cluster.shard, of_cluster.other, &tags, of_cluster.seed);
                self.notes.add(&asked);
            }
            _ => {
                let node = self.node(at);
                if let Some(link) = &node.bus_link {
                    match kind {
                        Kind::BusCut => link.cut(),
                        Kind::BusStall => link.stall(ways),
                        Kind::BusSlow => link.slow(ways, *delay),
                        _ => {}
                    }
                }
                if *kind == Kind::BusDeaf {
                    // Links end, as they do in a network that is cut: where only the answer to a ping is lost, the server waits for it for
                    // ever. One that does not answer is not made deaf.
                    let _ = node.command("DEBUG", &["CLOSE-CLUSTER-LINK-ON-PACKET-DROP", "1"]);
                    let _ = node.command("DEBUG", &["DROP-CLUSTER-PACKET-FILTER", HEARS_NOTHING]);
                }
                self.mend_later(fault, at.node, Remedy::HealBus(at));
            }
        }
        Ok(())
    }

    /// Mends what was done to that node, or service, when it has lasted.
    pub(crate) fn mend_later(&mut self, fault: &Fault, number: usize, remedy: Remedy) {
        self.mend_after(fault.lasts[number], remedy);
    }

    /// Mends something after that time.
    pub(crate) fn mend_after(&mut self, time: Duration, remedy: Remedy) {
        self.remedies.push((Instant::now() + time, remedy));
    }

    fn kill(&mut self, fault: &Fault, at: At, with_old_rdb: bool) -> Result<()> {
        self.node(at).kill()?;
        self.mend_later(fault, at.node, Remedy::Start { at, with_old_rdb });
        Ok(())
    }

    fn kill_all(&mut self, fault: &Fault, shard: usize) -> Result<()> {
        let nodes = 0..self.system.shards[shard].nodes.len();
        nodes.map(|node| At { shard, node }).try_for_each(|at| self.kill(fault, at, false))
    }

    fn kill_services(&mut self, fault: &Fault) -> Result<()> {
        (0..self.system.services.list.len()).try_for_each(|service| self.kill_service(fault, service))
    }

    /// Asks for it. It may not come about: something else may be broken.
    fn hand_over(&mut self, fault: &Fault, leader: At) {
        let shard = self.shard(leader);
        let to = match fault.target {
            Target::Leader => None,
            Target::Other(after) => Some(shard.nodes[shard.after(leader.node, after)].name.clone()),
        };
        let arguments: Vec<&str> = to.iter().flat_map(|to| ["TO", to]).collect();
        let asked = &shard.nodes[leader.node];
        let answer = asked.command("DURABILITY.FAILOVER", &arguments);
        let note = format!("{} was asked to hand over to {to:?}, and answered {answer:?}", asked.name);
        self.notes.add(&note);
    }
}
