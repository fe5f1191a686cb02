//! The addresses of the log service. The system may take many seconds to resolve a name, and nobody can break that off, so it is
//! done on a thread of its own: who asks waits for as long as it may, and then takes what the name stood for before. Any thread.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::base::time_limit::TimeLimit;

/// So much of the time there is goes into resolving a name of which addresses are known from before: one part of these.
const PARTS: u32 = 3;

/// What the system does for a name and a port.
type Resolve = fn(&str, u16) -> Result<Vec<SocketAddr>>;
/// Of a look-up that has ended.
type Found = std::result::Result<Vec<SocketAddr>, (ErrorKind, String)>;

/// One look-up at a time, for which everybody waits who asks meanwhile: however slow the system is, there is one thread.
struct Resolver {
    resolve: Resolve,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// How many look-ups were begun. If more than have ended, one is under way.
    begun: u64,
    ended: u64,
    /// What the last one found.
    last: Option<Found>,
    /// What the last one found that found anything.
    known: Vec<SocketAddr>,
    /// For which name and port all of this is.
    place: (String, u16),
}

/// The addresses of that host, in the order in which the system prefers them. One that is an address itself is not looked up.
///
/// # Errors
/// It has none, or they are not known within the limit.
pub fn resolve(host: &str, port: u16, limit: &TimeLimit<'_>) -> Result<Vec<SocketAddr>> {
    static SYSTEM: Mutex<Option<Arc<Resolver>>> = Mutex::new(None);
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let system = {
        let mut system = SYSTEM.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*system {
            Some(resolver) if resolver.is_for(host, port) => Arc::clone(resolver),
            // The first, or that of an earlier life of the module, of another log.
            _ => Arc::clone(
                system.insert(Resolver::new((host, port), |host, port| Ok((host, port).to_socket_addrs()?.collect()))),
            ),
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
                // No thread can be made.
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
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
    fn an_address_needs_no_look_up_and_a_name_one() {
        let end = EndTime::default();
        let resolve = |host| resolve(host, 7379, &TimeLimit::within(LONG, AtEnd::BreaksOff, &end)).unwrap();
        assert_eq!(resolve("10.0.0.5"), ["10.0.0.5:7379".parse().unwrap()]);
        assert_eq!(resolve("::1"), ["[::1]:7379".parse().unwrap()]);
        let found = resolve("localhost");
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback() && address.port() == 7379));
    }

    /// A system that answers when it is let.
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
    fn nobody_waits_longer_than_it_may_and_what_is_known_from_before_is_taken_then() {
        let end = EndTime::default();
        let resolver = Resolver::new(("log", 1), slow);
        let ask = |time| resolver.addresses(&TimeLimit::within(time, AtEnd::BreaksOff, &end));
        let found: Vec<SocketAddr> = vec!["127.0.0.9:1".parse().unwrap()];
        for _ in 0..2 {
            let late = ask(Duration::from_millis(20)).unwrap_err();
            assert_eq!((late.kind(), ASKED.load(Ordering::Relaxed)), (ErrorKind::TimedOut, 1), "both wait for one");
            assert!(late.to_string().contains("the name log"), "{late}");
        }
        MAY_ANSWER.store(true, Ordering::Relaxed);
        assert_eq!(ask(LONG).unwrap(), found);
        let asked = ASKED.load(Ordering::Relaxed);
        assert_eq!(ask(LONG).unwrap(), found);
        assert_eq!(ASKED.load(Ordering::Relaxed), asked + 1, "it is asked anew each time");
        FAILS.store(true, Ordering::Relaxed);
        assert_eq!(ask(LONG).unwrap(), found, "that there is an error now takes nothing away");
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
