//! Carries a plan out.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::leader::Finder;
use crate::link::Link;
use crate::notes::Notes;
use crate::plan::{Fault, Kind, Plan, Target};
use crate::service_faults::ServiceRemedy;
use crate::shard::{Shard, NODES};

/// How often it is looked whether a process has ended by itself.
const LOOK: Duration = Duration::from_millis(100);
/// A node saves its data for the first time.
const FIRST_SAVE: Duration = Duration::from_millis(500);

/// How often what was done.
pub type Counts = BTreeMap<Kind, usize>;

/// What mends something.
#[derive(Debug, Clone)]
pub(crate) enum Remedy {
    Start {
        node: usize,
        with_old_rdb: bool,
    },
    Continue(usize),
    HealLogLinks(usize),
    HealClientLink(usize),
    OfService(ServiceRemedy),
    /// Nothing is broken: a node saves its data, for the next time that one is started with an old RDB.
    Save(usize),
}

pub(crate) struct Work<'a> {
    pub(crate) shard: &'a mut Shard,
    pub(crate) notes: &'a Notes,
    remedies: Vec<(Instant, Remedy)>,
    counts: Counts,
    last_leader: usize,
    pub(crate) last_decider: usize,
}

/// Does all that is planned, from now on. In the end nothing is broken. Ends early if clients are to stop.
///
/// # Errors
/// A process has ended by itself, or cannot be started.
pub fn inflict(shard: &mut Shard, plan: &Plan, finder: &Finder, notes: &Notes) -> Result<Counts> {
    let began = Instant::now();
    let remedies = vec![(began + FIRST_SAVE, Remedy::Save(0))];
    let mut work = Work { shard, notes, remedies, counts: Counts::new(), last_leader: 0, last_decider: 0 };
    for fault in &plan.0 {
        work.mend_until(began + fault.at, finder)?;
        work.begin(fault)?;
    }
    // A remedy may have others in its train.
    while let Some(last) = work.remedies.iter().map(|(at, _)| *at).max() {
        work.mend_until(last, finder)?;
    }
    Ok(work.counts)
}

impl Work<'_> {
    /// Mends what is due until then, and looks after everybody.
    fn mend_until(&mut self, until: Instant, finder: &Finder) -> Result<()> {
        loop {
            let now = if finder.is_over() { until } else { Instant::now() };
            self.remedies.sort_by_key(|(at, _)| *at);
            while self.remedies.first().is_some_and(|(at, _)| *at <= now) {
                let (_, remedy) = self.remedies.remove(0);
                self.mend(remedy)?;
            }
            self.shard.check_alive()?;
            if now >= until {
                return Ok(());
            }
            let next = self.remedies.first().map_or(until, |(at, _)| until.min(*at));
            thread::sleep((next - now).min(LOOK));
        }
    }

    fn mend(&mut self, remedy: Remedy) -> Result<()> {
        let shard = &mut *self.shard;
        match remedy {
            // What was started for another reason meanwhile runs already.
            Remedy::Start { node, .. } if shard.nodes[node].is_started => return Ok(()),
            Remedy::Start { node, with_old_rdb: true } => shard.start_node_with_old_rdb(node)?,
            Remedy::Start { node, with_old_rdb: false } => shard.start_node(node)?,
            Remedy::Continue(node) if shard.nodes[node].is_started => shard.nodes[node].process.go_on()?,
            Remedy::Continue(_) => return Ok(()),
            Remedy::HealLogLinks(node) => shard.nodes[node].log_links.iter().for_each(Link::heal),
            Remedy::HealClientLink(node) => shard.nodes[node].client_link.heal(),
            Remedy::OfService(remedy) => return self.mend_service(remedy),
            Remedy::Save(node) => shard.save_old_rdb(node)?,
        }
        self.notes.add(&format!("{remedy:?}"));
        Ok(())
    }

    fn begin(&mut self, fault: &Fault) -> Result<()> {
        *self.counts.entry(fault.kind).or_default() += 1;
        let leader = self.shard.leader().unwrap_or(self.last_leader);
        self.last_leader = leader;
        let node = match fault.target {
            Target::Leader => leader,
            Target::Other(after) => (leader + after) % NODES,
        };
        let service = self.service_of(fault);
        self.notes.add(&format!(
            "{:?} n{node} for {:.0?} (n{leader} leads), log{service} for {:.0?} (log{} decides)",
            fault.kind, fault.lasts[node], fault.lasts[service], self.last_decider
        ));
        let Fault { ways, delay, .. } = fault;
        let shard = &mut *self.shard;
        match fault.kind {
            Kind::Kill => self.kill(fault, node, false)?,
            Kind::OldRdb => {
                self.kill(fault, node, true)?;
                let saved = Instant::now() + fault.lasts[node] / 2;
                self.remedies.push((saved, Remedy::Save((node + 1) % NODES)));
            }
            Kind::Stop => {
                if shard.nodes[node].is_started {
                    shard.nodes[node].process.stall()?;
                    self.mend_later(fault, node, Remedy::Continue(node));
                }
            }
            Kind::LogCut | Kind::LogStall | Kind::LogSlow => {
                let is_alone = fault.of_services.as_ref().is_some_and(|of_services| of_services.is_alone);
                let links = shard.nodes[node].log_links.iter().enumerate();
                for (_, link) in links.filter(|(to, _)| !is_alone || *to == service) {
                    match fault.kind {
                        Kind::LogCut => link.cut(),
                        Kind::LogStall => link.stall(ways),
                        _ => link.slow(ways, *delay),
                    }
                }
                self.mend_later(fault, node, Remedy::HealLogLinks(node));
            }
            Kind::ClientCut | Kind::ClientStall | Kind::ClientSlow => {
                let link = &shard.nodes[node].client_link;
                match fault.kind {
                    Kind::ClientCut => link.cut(),
                    Kind::ClientStall => link.stall(ways),
                    _ => link.slow(ways, *delay),
                }
                self.mend_later(fault, node, Remedy::HealClientLink(node));
            }
            Kind::LogKill => self.kill_services(fault)?,
            Kind::Handover => self.hand_over(fault, leader),
            Kind::KillAll => self.kill_all(fault)?,
            Kind::Blackout => {
                self.kill_services(fault)?;
                self.kill_all(fault)?;
            }
            Kind::ZoneKill => {
                // That of the service, or that of the leader: the drawn node if that leads.
                let zone = if fault.target == Target::Leader { leader } else { service };
                self.kill_service(fault, zone)?;
                self.kill(fault, zone, false)?;
            }
            _ => self.begin_at_service(fault, service)?,
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

    fn kill(&mut self, fault: &Fault, node: usize, with_old_rdb: bool) -> Result<()> {
        self.shard.kill_node(node)?;
        self.mend_later(fault, node, Remedy::Start { node, with_old_rdb });
        Ok(())
    }

    fn kill_all(&mut self, fault: &Fault) -> Result<()> {
        (0..NODES).try_for_each(|node| self.kill(fault, node, false))
    }

    fn kill_services(&mut self, fault: &Fault) -> Result<()> {
        (0..self.shard.services.list.len()).try_for_each(|service| self.kill_service(fault, service))
    }

    /// Asks for it. It may not come about: something else may be broken.
    fn hand_over(&mut self, fault: &Fault, leader: usize) {
        let to = match fault.target {
            Target::Leader => None,
            Target::Other(after) => Some(format!("n{}", (leader + after) % NODES)),
        };
        let arguments: Vec<&str> = to.iter().flat_map(|to| ["TO", to]).collect();
        let answer = self.shard.nodes[leader].command("DURABILITY.FAILOVER", &arguments);
        self.notes.add(&format!("n{leader} was asked to hand over to {to:?}, and answered {answer:?}"));
    }
}
