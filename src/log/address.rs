//! The addresses of the log service. The system may take many seconds to resolve a name, and cannot be interrupted, so a thread of its own
//! does that. The caller waits as long as its limit allows, and then takes the addresses from before. Any thread.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::base::locks::lock;
use crate::base::time_limit::TimeLimit;

/// If addresses are known from before, resolving the name gets one of this many parts of the time.
const PARTS: u32 = 3;

/// How the system resolves a name and a port.
type Resolve = fn(&str, u16) -> Result<Vec<SocketAddr>>;
/// The result of a look-up.
type Found = std::result::Result<Vec<SocketAddr>, (ErrorKind, String)>;

/// Does one look-up of its name at a time. All callers that come meanwhile wait for it, so a slow system costs one thread.
struct Resolver {
    resolve: Resolve,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// How many look-ups were begun. If that is more than have ended, one is under way.
    begun: u64,
    ended: u64,
    /// What the last look-up found.
    last: Option<Found>,
    /// The addresses of the last look-up that found any.
    known: Vec<SocketAddr>,
    /// The name and the port.
    place: (String, u16),
}

/// The most names that are remembered at a time: those of all log services that a node can have, and some of before.
const MAX_NAMES: usize = 16;

/// The addresses of that host, in the order in which the system prefers them. A host that is an address is not looked up.
///
/// # Errors
/// The host has no addresses, or they are not known within the limit.
pub fn resolve(host: &str, port: u16, limit: &TimeLimit<'_>) -> Result<Vec<SocketAddr>> {
    static SYSTEM: Mutex<Vec<Arc<Resolver>>> = Mutex::new(Vec::new());
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let system = {
        let mut system = lock(&SYSTEM);
        match system.iter().find(|resolver| resolver.is_for(host, port)) {
            Some(resolver) => Arc::clone(resolver),
            None => {
                if system.len() == MAX_NAMES {
                    // The module was loaded before, with other logs.
                    system.remove(0);
                }
                let resolver = Resolver::new((host, port), |host, port| Ok((host, port).to_socket_addrs()?.collect()));
                system.push(Arc::clone(&resolver));
                resolver
            }
        }
    };
    system.addresses(limit)
}

impl Resolver {
    fn new((host, port): (&str, u16), resolve: Resolve) -> Arc<Self> {
        let state = State { place: (host.to_owned(), port), ..State::default() };
        Arc::new(Resolver { resolve, state: Mutex::new(state), ended: Condvar::new() })
    }

    fn is_for(&self, host: &str, port: u16) -> bool {
        let state = self.lock();
        (state.place.0.as_str(), state.place.1) == (host, port)
    }

    fn addresses(self: &Arc<Self>, limit: &TimeLimit<'_>) -> Result<Vec<SocketAddr>> {
        let mut state = self.lock();
        if state.begun == state.ended {
            match self.start(state.place.clone()) {
                Ok(()) => state.begun += 1,
                // The system gives no thread.
                Err(_) if !state.known.is_empty() => return Ok(state.known.clone()),
                Err(error) => return Err(error),
            }
        }
        let awaited = state.begun;
        let limit = if state.known.is_empty() { *limit } else { limit.part(PARTS) };
        while state.ended < awaited {
            let step = match limit.next_step() {
                Ok(step) => step,
                Err(_) if !state.known.is_empty() => return Ok(state.known.clone()),
                Err(_) => {
                    let why = format!("the name {} is not resolved in time", state.place.0);
                    return Err(Error::new(ErrorKind::TimedOut, why));
                }
            };
            state = self.ended.wait_timeout(state, step).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        match &state.last {
            Some(Err((kind, why))) if state.known.is_empty() => Err(Error::new(*kind, why.clone())),
            _ => Ok(state.known.clone()),
        }
    }

    fn start(self: &Arc<Self>, (host, port): (String, u16)) -> Result<()> {
        let resolver = Arc::clone(self);
        std::thread::Builder::new().name("log address".to_owned()).spawn(move || {
            let found = (resolver.resolve)(&host, port).map_err(|error| (error.kind(), error.to_string()));
            let mut state = resolver.lock();
            if let Some(known) = found.as_ref().ok().filter(|found| !found.is_empty()) {
                state.known.clone_from(known);
            }
            state.last = Some(found);
            state.ended += 1;
            resolver.ended.notify_all();
        })?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::base::time_limit::{AtEnd, EndTime};

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn an_address_needs_no_look_up_and_a_name_needs_one() {
        let end = EndTime::default();
        let resolve = |host| resolve(host, 7379, &TimeLimit::within(LONG, AtEnd::BreaksOff, &end)).unwrap();
        assert_eq!(resolve("10.0.0.5"), ["10.0.0.5:7379".parse().unwrap()]);
        assert_eq!(resolve("::1"), ["[::1]:7379".parse().unwrap()]);
        let found = resolve("localhost");
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback() && address.port() == 7379));
    }

    /// A system that answers when the test allows it.
    static MAY_ANSWER: AtomicBool = AtomicBool::new(false);
    static FAILS: AtomicBool = AtomicBool::new(false);
    static ASKED: AtomicUsize = AtomicUsize::new(0);

    fn slow(_: &str, port: u16) -> Result<Vec<SocketAddr>> {
        ASKED.fetch_add(1, Ordering::Relaxed);
        while !MAY_ANSWER.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        match FAILS.load(Ordering::Relaxed) {
            true => Err(ErrorKind::HostUnreachable.into()),
            false => Ok(vec![SocketAddr::new([127, 0, 0, 9].into(), port)]),
        }
    }

    #[test]
    fn callers_wait_no_longer_than_their_limit_and_then_take_the_addresses_from_before() {
        let end = EndTime::default();
        let resolver = Resolver::new(("log", 1), slow);
        let ask = |time| resolver.addresses(&TimeLimit::within(time, AtEnd::BreaksOff, &end));
        let found: Vec<SocketAddr> = vec!["127.0.0.9:1".parse().unwrap()];
        for _ in 0..2 {
            let late = ask(Duration::from_millis(20)).unwrap_err();
            assert_eq!(
                (late.kind(), ASKED.load(Ordering::Relaxed)),
                (ErrorKind::TimedOut, 1),
                "both wait for one look-up"
            );
            assert!(late.to_string().contains("the name log"), "{late}");
        }
        MAY_ANSWER.store(true, Ordering::Relaxed);
        assert_eq!(ask(LONG).unwrap(), found);
        let asked = ASKED.load(Ordering::Relaxed);
        assert_eq!(ask(LONG).unwrap(), found);
        assert_eq!(ASKED.load(Ordering::Relaxed), asked + 1, "every call looks the name up");
        FAILS.store(true, Ordering::Relaxed);
        assert_eq!(ask(LONG).unwrap(), found, "an error does not take the known addresses away");
        assert_eq!(
            Resolver::new(("log", 1), slow)
                .addresses(&TimeLimit::within(LONG, AtEnd::BreaksOff, &end))
                .unwrap_err()
                .kind(),
            ErrorKind::HostUnreachable
        );
        MAY_ANSWER.store(false, Ordering::Relaxed);
        assert_eq!(ask(Duration::from_millis(60)).unwrap(), found);
        MAY_ANSWER.store(true, Ordering::Relaxed);
    }
}
