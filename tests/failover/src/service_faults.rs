//! Faults of log services, and of the links between them, and what mends them.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use crate::faults::{Remedy, Work};
use crate::link::{Link, Way};
use crate::plan::{Fault, Kind, Target};
use crate::system::MOST_LAG;

/// How often it is looked whether a service that was asked to has ended, or whether all copies have everything.
const LOOK: Duration = Duration::from_millis(50);
/// For a service that was asked to end: it hands over what it decides within 2 s.
const END_TIME: Duration = Duration::from_secs(10);
/// For copies to have everything, between two services that are restarted. Other faults may keep them from it, so it goes on all the same.
const CATCH_UP_TIME: Duration = Duration::from_secs(5);
/// For a service to be replaced, whatever else is broken meanwhile.
const REPLACE_TIME: Duration = Duration::from_secs(90);
/// Until the others are asked for that again.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// What takes long on a slow disk.
const SYNCS: [&str; 6] =
    ["record-sync", "vote-sync", "last-record-sync", "segment-header-sync", "manifest-sync", "manifest-directory-sync"];
/// What fails if there is no space.
const WRITES: [&str; 6] =
    ["record-write", "segment-create", "segment-allocate", "spare-create", "spare-write", "manifest-write"];

/// What mends a service.
#[derive(Debug, Clone)]
pub(crate) enum ServiceRemedy {
    Start(usize),
    Continue(usize),
    HealPeerLinks(usize),
    /// Its disk does what it should again; and the service is killed and started, if it has to be.
    HealDisk {
        service: usize,
        restarts: bool,
    },
    Restart(Restart),
    /// What runs in the stead of a service that lost its disk is given its place.
    Replace {
        service: usize,
        since: Instant,
    },
}

/// A planned restart, which goes on step by step.
#[derive(Debug, Clone)]
pub(crate) struct Restart {
    service: usize,
    /// How many services follow, one after the other.
    more: usize,
    step: Step,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Ask,
    Ending,
    CatchingUp,
}

impl Work<'_> {
    /// The service that a fault is about. A single one is always meant.
    pub(crate) fn service_of(&mut self, fault: &Fault) -> usize {
        let Some(of_services) = &fault.of_services else { return 0 };
        self.last_decider = self.system.services.decider().unwrap_or(self.last_decider);
        match of_services.target {
            Target::Leader => self.last_decider,
            Target::Other(after) => self.after(self.last_decider, after),
        }
    }

    fn after(&self, service: usize, after: usize) -> usize {
        (service + after) % self.system.services.list.len()
    }

    pub(crate) fn kill_service(&mut self, fault: &Fault, service: usize) -> Result<()> {
        self.system.services.list[service].kill()?;
        self.mend_later(fault, service, Remedy::OfService(ServiceRemedy::Start(service)));
        Ok(())
    }

    /// What is done to services alone.
    pub(crate) fn begin_at_service(&mut self, fault: &Fault, service: usize) -> Result<()> {
        let Fault { kind, ways, delay, of_services, .. } = fault;
        let of_services = of_services.as_ref();
        let others: Vec<usize> =
            of_services.into_iter().flat_map(|of| &of.others).map(|&after| self.after(service, after)).collect();
        let subject = &mut self.system.services.list[service];
        match kind {
            Kind::ServiceKill => self.kill_service(fault, service)?,
            Kind::TwoKill => {
                self.kill_service(fault, service)?;
                let other = others.first().copied().unwrap_or(service);
                self.kill_service(fault, other)?;
            }
            Kind::ServiceStop if subject.is_started => {
                subject.process.stall()?;
                self.mend_later(fault, service, Remedy::OfService(ServiceRemedy::Continue(service)));
            }
            Kind::ServiceStop => {}
            Kind::Replace => {
                subject.lose_disk()?;
                self.is_replacing = true;
                let remedy = ServiceRemedy::Replace { service, since: Instant::now() };
                self.mend_later(fault, service, Remedy::OfService(remedy));
            }
            Kind::ServiceRestart | Kind::Rolling => {
                let more = if *kind == Kind::Rolling { self.system.services.list.len() - 1 } else { 0 };
                self.restart(Restart { service, more, step: Step::Ask, since: Instant::now() })?;
            }
            Kind::PeerCut | Kind::PeerStall | Kind::PeerSlow => {
                for link in self.system.peer_links.of(service, &others, ways) {
                    match kind {
                        Kind::PeerCut => link.cut(),
                        Kind::PeerStall => link.stall(&[Way::There, Way::Back]),
                        _ => link.slow(ways, *delay),
                    }
                }
                self.mend_later(fault, service, Remedy::OfService(ServiceRemedy::HealPeerLinks(service)));
            }
            Kind::DiskSlow | Kind::DiskHang | Kind::DiskFail | Kind::DiskLie => {
                let lasts_ms = fault.lasts[service].as_millis();
                let error = of_services.map_or("eio", |of| of.error);
                let fails = format!("return({error})");
                let faults = match kind {
                    Kind::DiskSlow => failpoints(&SYNCS, &format!("sleep({})", delay.as_millis())),
                    // What hangs comes back: the sync itself is done after that.
                    Kind::DiskHang => failpoints(&SYNCS, &format!("sleep({lasts_ms})")),
                    Kind::DiskLie => failpoints(&["record-write"], "return(lie)"),
                    _ if error == "enospc" => failpoints(&WRITES, &fails),
                    _ => failpoints(&SYNCS, &fails),
                };
                subject.set_failpoints(&faults)?;
                let restarts = *kind == Kind::DiskFail;
                subject.is_disk_failing = restarts;
                let remedy = ServiceRemedy::HealDisk { service, restarts };
                self.mend_later(fault, service, Remedy::OfService(remedy));
            }
            // What is done to nodes is done elsewhere.
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn mend_service(&mut self, remedy: ServiceRemedy) -> Result<()> {
        let services = &mut self.system.services.list;
        match &remedy {
            ServiceRemedy::Start(service) => {
                if !services[*service].start()? {
                    return Ok(());
                }
            }
            ServiceRemedy::Continue(service) if services[*service].is_started => services[*service].process.go_on()?,
            ServiceRemedy::Continue(_) => return Ok(()),
            ServiceRemedy::HealPeerLinks(service) => {
                let all: Vec<usize> = (0..services.len()).collect();
                let ways = [Way::There, Way::Back];
                self.system.peer_links.of(*service, &all, &ways).for_each(Link::heal);
            }
            ServiceRemedy::HealDisk { service, restarts } => {
                let service = &mut services[*service];
                service.set_failpoints("")?;
                service.is_disk_failing = false;
                if *restarts && (service.is_started || service.waits_for_disk) {
                    service.kill()?;
                    service.start()?;
                }
            }
            ServiceRemedy::Restart(restart) => return self.restart(restart.clone()),
            ServiceRemedy::Replace { service, since } => return self.replace(*service, *since),
        }
        self.notes.add(&format!("{remedy:?}"));
        Ok(())
    }

    /// Goes on with a replacement.
    fn replace(&mut self, service: usize, since: Instant) -> Result<()> {
        // It may have been started, or killed again, for another reason.
        self.system.services.list[service].start()?;
        if self.system.services.has_replaced(service) {
            self.is_replacing = false;
            self.notes.add(&format!("log{service} has its place and all logs after {:.0?}", since.elapsed()));
            return Ok(());
        }
        let answers = self.system.services.replace(service);
        ensure!(since.elapsed() < REPLACE_TIME, "log{service} was not replaced within {REPLACE_TIME:?}: {answers}");
        self.notes.add(&format!("log{service} is to be replaced: {answers}"));
        self.mend_after(ASK_AGAIN, Remedy::OfService(ServiceRemedy::Replace { service, since }));
        Ok(())
    }

    /// Goes on with a planned restart, and with the next.
    fn restart(&mut self, mut restart: Restart) -> Result<()> {
        let Restart { service: number, step, since, .. } = restart;
        let service = &mut self.system.services.list[number];
        let next = match step {
            // What was killed for another reason is started for that reason.
            Step::Ask if !service.is_started => Some(Step::CatchingUp),
            Step::Ask => {
                // It may stand still.
                service.process.go_on()?;
                service.terminate()?;
                self.notes.add(&format!("log{number} is asked to end"));
                Some(Step::Ending)
            }
            // It was killed and started meanwhile.
            Step::Ending if service.is_started => Some(Step::CatchingUp),
            Step::Ending if !service.process.is_running()? => {
                self.notes.add(&format!("log{number} has ended, and is started"));
                service.start()?;
                Some(Step::CatchingUp)
            }
            Step::Ending => {
                ensure!(since.elapsed() < END_TIME, "log{number} was asked to end, and has not after {END_TIME:?}");
                None
            }
            Step::CatchingUp if self.system.services.trouble(MOST_LAG).is_none() || since.elapsed() > CATCH_UP_TIME => {
                if restart.more == 0 {
                    return Ok(());
                }
                (restart.service, restart.more) = (self.after(number, 1), restart.more - 1);
                Some(Step::Ask)
            }
            Step::CatchingUp => None,
        };
        if let Some(next) = next {
            (restart.step, restart.since) = (next, Instant::now());
        }
        self.mend_after(LOOK, Remedy::OfService(ServiceRemedy::Restart(restart)));
        Ok(())
    }
}

fn failpoints(steps: &[&str], action: &str) -> String {
    steps.iter().map(|step| format!("{step}={action}")).collect::<Vec<_>>().join(";")
}
