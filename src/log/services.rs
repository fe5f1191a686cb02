//! The log services of this node: the configured addresses, and which of them is in use. This is the one place that decides it, for all
//! threads. Several services replicate the log among them, and one of them decides over it: `decide/service_choice.rs`. Any thread.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use durability_protocol::{Code, Refusal};

use crate::base::locks::lock;
use crate::decide::answer_time::AnswerTime;
use crate::decide::service_choice::{Failure, ServiceChoice};
use crate::settings;

/// The longest that one of several services may take to answer, if a quarter of the lease is longer. With three of them, two may be silent,
/// and the third still renews the lease in time.
const ANSWER_AT_MOST: Duration = Duration::from_secs(1);
/// However short the lease, one of several services may take so long: a connection takes several round trips.
const ANSWER_AT_LEAST: Duration = Duration::from_millis(150);

/// One of the configured log services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its place in the list.
    place: usize,
    /// As configured.
    pub address: String,
    /// The host of that address, which a certificate of the service has to name.
    pub host: String,
    /// The port of that address; 0 if the address cannot be used.
    pub port: u16,
    is_one_of_several: bool,
}

/// What to call it in a message. Where there are several, the message has to say which one.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_one_of_several {
            true => write!(f, "the log service at {}", self.address),
            false => f.write_str("the log service"),
        }
    }
}

/// Where a log service was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// One of the addresses of its host.
    pub address: SocketAddr,
    /// The service.
    pub service: Arc<Service>,
}

/// All log services of this node.
#[derive(Debug)]
pub struct Services {
    list: Vec<Arc<Service>>,
    choice: Mutex<ServiceChoice>,
}

impl Services {
    /// What `durability.log` says.
    pub fn configured() -> Self {
        Services::of(&settings::LOG.value())
    }

    /// Those of a list as in `durability.log`. Whoever connects to the address of a list that cannot be used is told why.
    pub fn of(list: &str) -> Self {
        let parsed = settings::parse_services(list).unwrap_or_else(|_| vec![(list.to_owned(), String::new(), 0)]);
        let is_one_of_several = parsed.len() > 1;
        let service =
            |(place, (address, host, port))| Arc::new(Service { place, address, host, port, is_one_of_several });
        let list: Vec<_> = parsed.into_iter().enumerate().map(service).collect();
        let choice = Mutex::new(ServiceChoice::among(list.len()));
        Services { list, choice }
    }

    /// Whether there are several, so that another one may help.
    pub fn are_several(&self) -> bool {
        self.list.len() > 1
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        // The configuration allows few.
        u32::try_from(self.list.len()).unwrap_or(u32::MAX)
    }

    /// The service to connect to.
    pub fn in_use(&self) -> Arc<Service> {
        let in_use = self.lock().in_use();
        Arc::clone(&self.list[in_use])
    }

    /// That service has done, or has refused, what only the one can do that decides.
    pub fn decided(&self, service: &Service) {
        self.lock().decided(service.place);
    }

    /// That service has failed. If it is in use, another one is from now on, if there is one.
    pub fn failed(&self, service: &Service, failure: Failure) {
        self.lock().failed(service.place, failure, Instant::now());
    }

    /// After a failure: whether another service is to be tried before any wait.
    pub fn has_next(&self) -> bool {
        !self.lock().is_round_over()
    }

    /// Whether another service than that one was found to decide, so that its answer is of no use any more.
    pub fn is_out_of_use(&self, service: &Service) -> bool {
        self.are_several() && self.lock().confirmed().is_some_and(|confirmed| confirmed != service.place)
    }

    /// Among several services: how often one was found to decide that was not known to. A change ends the wait before the next attempt.
    pub fn confirmations(&self) -> u64 {
        if self.are_several() {
            self.lock().confirmations()
        } else {
            0
        }
    }

    /// How long one of several services may take to answer before another one is tried: a quarter of the lease, and longer for as long as
    /// they are slow.
    pub fn time_for_one(&self) -> Duration {
        self.lock().answer_time(usual_time(), Instant::now())
    }

    /// A service was connected to, and has taken the login, after that time.
    pub fn opened(&self, took: Duration) {
        self.note_in_time(took, AnswerTime::answered);
    }

    /// A service has renewed the lease after that time.
    pub fn renewed(&self, took: Duration) {
        self.note_in_time(took, AnswerTime::renewed);
    }

    /// What took longer than a service may take was waited for by chance: this process stood still, say.
    fn note_in_time(&self, took: Duration, note: fn(&mut AnswerTime, Duration, Instant)) {
        let (mut choice, now) = (self.lock(), Instant::now());
        if took <= choice.answer_time(usual_time(), now) {
            note(choice.answer_times(), took, now);
        }
    }

    /// What a refusal says of the service: `None` if it decides, and so may say that.
    pub fn failure_of(&self, refusal: &Refusal) -> Option<Failure> {
        match refusal.code {
            Code::NotLeader => Some(Failure::DecidesNot(self.named_in(&refusal.detail))),
            Code::LogFailed | Code::NoShard | Code::NoAuth | Code::NoPerm => Some(Failure::Lost),
            _ => None,
        }
    }

    /// The service that the detail of a `NOTLEADER` begins with. One that is not in the list is not trusted: it would be shown the token, and
    /// only the operator says who may see that.
    fn named_in(&self, detail: &str) -> Option<usize> {
        let named = detail.split(' ').next().unwrap_or_default();
        let (host, port) = settings::parse_address(named).ok()?;
        let is_it = |service: &Arc<Service>| settings::is_same_place((&service.host, service.port), (&host, port));
        self.list.iter().position(is_it)
    }

    fn lock(&self) -> MutexGuard<'_, ServiceChoice> {
        lock(&self.choice)
    }
}

/// How long one of several services may take to answer if none is slow.
fn usual_time() -> Duration {
    match settings::lease() {
        Duration::ZERO => ANSWER_AT_MOST,
        lease => (lease / 4).clamp(ANSWER_AT_LEAST, ANSWER_AT_MOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_leader(services: &Services, detail: &str) {
        let failure = services.failure_of(&Refusal::new(Code::NotLeader, detail));
        services.failed(&services.in_use(), failure.expect("it does not decide"));
    }

    #[test]
    fn a_message_names_the_service_only_if_there_are_several() {
        assert_eq!(Services::of("a:1").in_use().to_string(), "the log service");
        assert_eq!(Services::of("a:1, b:2").in_use().to_string(), "the log service at a:1");
    }

    #[test]
    fn a_service_directs_to_those_of_the_list_only() {
        let services = Services::of("a:1,b:2,[::1]:3");
        not_leader(&services, "[0:0::1]:3 decides");
        assert_eq!(services.in_use().address, "[::1]:3");
        services.decided(&services.in_use());
        not_leader(&services, "B:2");
        assert_eq!(services.in_use().address, "b:2");
        for stranger in ["evil:1", "a:2", "-", "", "a", "b:2,evil:1"] {
            services.decided(&services.list[1]);
            not_leader(&services, stranger);
            assert_eq!(services.in_use().address, "[::1]:3", "the next of the list, not {stranger:?}");
        }
    }

    #[test]
    fn a_service_that_refuses_for_another_reason_decides() {
        let services = Services::of("a:1,b:2");
        for code in [Code::Fenced, Code::Gap, Code::OtherLog, Code::Leased, Code::NoSpace, Code::Err] {
            assert_eq!(services.failure_of(&Refusal::new(code, "b:2")), None, "{code:?}");
        }
        for code in [Code::LogFailed, Code::NoShard, Code::NoAuth, Code::NoPerm] {
            assert_eq!(services.failure_of(&Refusal::new(code, "b:2")), Some(Failure::Lost), "{code:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_one_service_that_is_always_in_use() {
        for list in ["", "a", "a:1,"] {
            let services = Services::of(list);
            services.failed(&services.in_use(), Failure::Lost);
            assert_eq!(
                (services.in_use().address.as_str(), services.has_next(), services.confirmations()),
                (list, false, 0)
            );
        }
    }
}
