//! Connections of strangers that are over, but stay open for the other end a while longer. A crowd that connects again as soon as it is
//! closed would otherwise come back tens of thousands of times a second. Each would take the place of another stranger before that one can
//! log in, and all together would take the machine. With this, each comes back once in [`LINGER`], or less often. Up to [`AT_ONCE`]
//! connections, and then one each [`INTERVAL`], are closed without delay, so nobody waits where there is no crowd. When more connections
//! come than may linger, they are accepted no faster than one each [`PACE`].
//!
//! Connections that have lingered are closed one by one, no faster than all that may linger are in [`LINGER`]. A crowd that has come at once
//! would otherwise be closed at once as well, and come back at once each time: appends would wait behind it for a part of a second.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::time::Instant;

/// How long a connection that is over stays open for the other end.
const LINGER: Duration = Duration::from_secs(10);
/// How many connections may linger for each place for strangers. Each costs an open file, and nothing is read from it.
pub const LINGERING_FOR_EACH_PLACE: u32 = 4;

/// How many connections are closed without delay before any lingers.
const AT_ONCE: u32 = 200;
/// How long it takes until one more may be closed without delay.
const INTERVAL: Duration = Duration::from_millis(5);

/// The time between two accepts while as many connections linger as may.
const PACE: Duration = Duration::from_micros(500);
/// How far accepts, and what is closed, may catch up with their pace: timers are a millisecond or two late.
const CATCH_UP: Duration = Duration::from_millis(10);

/// The lingering connections of a port, the oldest first.
pub struct Lingering {
    most: usize,
    /// From when on [`AT_ONCE`] connections could be closed without delay again.
    at_once_from: Instant,
    /// The next connection is to be accepted no earlier. In the past unless as many linger as may.
    next_at: Instant,
    /// The time between two connections that are closed after they have lingered.
    close_pace: Duration,
    /// The next of these is to be closed no earlier.
    next_close_at: Instant,
    sockets: VecDeque<(Instant, OwnedFd)>,
}

impl Lingering {
    /// At most `most` linger at a time.
    pub fn new(most: usize, now: Instant) -> Self {
        let close_pace = LINGER / u32::try_from(most).unwrap_or(u32::MAX).max(1);
        Lingering { most, at_once_from: now, next_at: now, close_pace, next_close_at: now, sockets: VecDeque::new() }
    }

    /// Whether any may linger at all.
    pub fn has_room(&self) -> bool {
        self.most > 0
    }

    /// Closes a connection: without delay if few are closed, else [`LINGER`] after `now`, or up to twice that if many others are due before
    /// it, or earlier if too many others come after it.
    pub fn add(&mut self, socket: OwnedFd, now: Instant) {
        let at_once_from = self.at_once_from.max(now) + INTERVAL;
        if at_once_from <= now + INTERVAL * AT_ONCE {
            self.at_once_from = at_once_from;
            return;
        }
        self.close_due(now);
        self.sockets.push_back((now + LINGER, socket));
        while self.sockets.len() > self.most {
            self.sockets.pop_front();
            self.next_at = self.next_at.max(now - CATCH_UP) + PACE;
        }
    }

    /// When the next connection may be accepted; `None` means now.
    pub fn waits_until(&self, now: Instant) -> Option<Instant> {
        (self.next_at > now).then_some(self.next_at)
    }

    /// When the next connection is to be closed; `None` if none lingers.
    pub fn next_due(&self) -> Option<Instant> {
        self.sockets.front().map(|(due, _)| (*due).max(self.next_close_at))
    }

    /// As in the middle of a crowd.
    #[cfg(test)]
    pub fn close_nothing_at_once(&mut self) {
        self.at_once_from += Duration::from_secs(3600);
    }

    /// Closes connections that have lingered for long enough, as many as their pace allows.
    pub fn close_due(&mut self, now: Instant) {
        while self.next_due().is_some_and(|due| due <= now) {
            self.sockets.pop_front();
            self.next_close_at = self.next_close_at.max(now - CATCH_UP) + self.close_pace;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Whether the other end can see that its connection is closed.
    fn is_closed(mut other_end: &UnixStream) -> bool {
        match other_end.read(&mut [0]) {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    fn pair() -> (OwnedFd, UnixStream) {
        let (here, there) = UnixStream::pair().expect("a pair");
        there.set_nonblocking(true).expect("set");
        (here.into(), there)
    }

    /// In the middle of a crowd.
    fn crowded(most: usize, now: Instant) -> Lingering {
        let mut lingering = Lingering::new(most, now);
        for _ in 0..AT_ONCE {
            let (socket, other_end) = pair();
            lingering.add(socket, now);
            assert!(is_closed(&other_end), "without delay while there are few");
        }
        lingering
    }

    #[test]
    fn where_there_is_no_crowd_nobody_waits() {
        let start = Instant::now();
        let mut lingering = crowded(2, start);
        let (socket, other_end) = pair();
        lingering.add(socket, start + INTERVAL);
        assert!(is_closed(&other_end));
        let (socket, other_end) = pair();
        lingering.add(socket, start + INTERVAL);
        assert!(!is_closed(&other_end));
    }

    #[test]
    fn the_other_end_learns_it_after_a_while() {
        let start = Instant::now();
        let mut lingering = crowded(2, start);
        let (socket, other_end) = pair();
        lingering.add(socket, start);
        lingering.close_due(start + LINGER - Duration::from_millis(1));
        assert!(!is_closed(&other_end));
        assert_eq!(lingering.next_due(), Some(start + LINGER));
        lingering.close_due(start + LINGER);
        assert!(is_closed(&other_end));
        assert_eq!(lingering.next_due(), None);
    }

    #[test]
    fn a_crowd_that_has_come_at_once_is_not_closed_at_once() {
        const MOST: usize = 200;
        let start = Instant::now();
        let mut lingering = crowded(MOST, start);
        let (sockets, ends): (Vec<_>, Vec<_>) = (0..MOST).map(|_| pair()).unzip();
        sockets.into_iter().for_each(|socket| lingering.add(socket, start));
        let closed = || ends.iter().filter(|end| is_closed(end)).count();
        let pace = LINGER / MOST as u32;
        let (mut now, mut before) = (start + LINGER, 0);
        while let Some(due) = lingering.next_due() {
            // Timers are late.
            now = now.max(due) + Duration::from_millis(2);
            lingering.close_due(now);
            let most = 1 + (CATCH_UP.as_nanos() / pace.as_nanos()) as usize;
            assert!(closed() - before <= most, "{} at once", closed() - before);
            before = closed();
        }
        assert_eq!(closed(), MOST);
        assert!(now <= start + LINGER * 2, "the last one waits for {:?}", now - start);
        assert!(now >= start + LINGER * 2 - CATCH_UP - pace, "the last one waits for {:?}", now - start);
    }

    #[test]
    fn only_so_many_linger_and_the_oldest_goes_first() {
        let now = Instant::now();
        let mut lingering = crowded(2, now);
        let (sockets, ends): (Vec<_>, Vec<_>) = (0..3).map(|_| pair()).unzip();
        sockets.into_iter().for_each(|socket| lingering.add(socket, now));
        assert_eq!(ends.iter().map(is_closed).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn a_crowd_that_is_larger_than_what_may_linger_is_taken_in_at_a_pace() {
        let start = Instant::now();
        let mut lingering = crowded(10, start);
        let mut add = |now| {
            lingering.add(pair().0, now);
            lingering.waits_until(now)
        };
        assert!((0..10).all(|_| add(start).is_none()), "they have room");
        let at_once = (0..1000).take_while(|_| add(start).is_none()).count();
        assert!(at_once as u128 <= CATCH_UP.as_micros() / PACE.as_micros(), "{at_once}");
        let soon = start + INTERVAL / 2;
        let then = (0..1000).take_while(|_| add(soon).is_none()).count();
        // One more was taken in than was due.
        assert_eq!(then as u128, INTERVAL.as_micros() / 2 / PACE.as_micros() - 1);
    }
}
