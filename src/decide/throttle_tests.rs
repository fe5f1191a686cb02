//! The control law against a model of closed-loop clients, a server and a log. Time goes by in steps of a millisecond.

use std::collections::VecDeque;

use super::*;
use crate::lag::Lag;

/// A write, in bytes.
const WRITE: u64 = 40;
const LIMIT: Duration = Duration::from_secs(10);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Clients that write as soon as they are answered, and a log that takes so many bytes a millisecond.
struct Model {
    now: Instant,
    limits: Limits,
    throttle: Throttle,
    lag: Lag,
    written: u64,
    durable: u64,
    /// What the log has taken, and acknowledges with its next batch.
    taken: u64,
    /// Clients that wait for a reply, each with where the log has to be.
    held: VecDeque<u64>,
    free: usize,
    /// At most so many writes run in a millisecond.
    writes_a_ms: usize,
    log_bytes_a_ms: u64,
    batch_ms: u64,
    is_allowed: bool,
    refusals: usize,
    is_refusing: bool,
    elapsed_ms: u64,
}

impl Model {
    /// Writers that are as many times as fast as the log.
    fn new(limit: Duration, clients: usize, times: f64) -> Self {
        let writes_a_ms = 90;
        let log_bytes_a_ms = (writes_a_ms as f64 * WRITE as f64 / times) as u64;
        Model {
            now: Instant::now(),
            limits: Limits { lag: limit, pending_bytes: 1 << 30 },
            throttle: Throttle::default(),
            lag: Lag::default(),
            written: 0,
            durable: 0,
            taken: 0,
            held: VecDeque::new(),
            free: clients,
            writes_a_ms,
            log_bytes_a_ms,
            batch_ms: 5,
            is_allowed: true,
            refusals: 0,
            is_refusing: false,
            elapsed_ms: 0,
        }
    }

    fn behind(&self) -> Behind {
        Behind { lag: self.lag.age(self.now), pending_bytes: self.written - self.durable }
    }

    /// A millisecond passes. Returns the lag.
    fn step(&mut self) -> Duration {
        self.elapsed_ms += 1;
        self.now += ms(1);
        self.taken = (self.taken + self.log_bytes_a_ms).min(self.written);
        if self.elapsed_ms.is_multiple_of(self.batch_ms) {
            self.durable = self.taken;
            self.lag.durable(self.durable, |_| {});
        }
        let behind = self.behind();
        self.throttle.judge(self.now, self.durable, &behind, &self.limits, self.is_allowed && !self.is_refusing);
        let was_refusing = self.is_refusing;
        self.is_refusing = behind.lag >= if was_refusing { self.limits.lag / 2 } else { self.limits.lag };
        self.refusals += usize::from(self.is_refusing && !was_refusing);
        if self.is_refusing || !self.throttle.is_on() {
            self.free += self.held.drain(..).count();
        }
        while self.held.front().is_some_and(|until| *until <= self.durable) {
            self.held.pop_front();
            self.free += 1;
        }
        // A client that is not held writes again at once.
        for _ in 0..self.writes_a_ms {
            if self.is_refusing || self.free == 0 {
                break;
            }
            let window = self.throttle.window(self.written - self.durable);
            self.written += WRITE;
            self.lag.written(self.now, self.written);
            if let Some(window) = window {
                self.free -= 1;
                self.held.push_back(self.written - window);
            }
        }
        self.lag.age(self.now)
    }

    /// The greatest lag within that time.
    fn run(&mut self, time: Duration) -> Duration {
        (0..time.as_millis()).map(|_| self.step()).max().unwrap_or_default()
    }
}

#[test]
fn the_lag_is_steady_below_the_limit_however_slow_the_log_is() {
    for limit in [ms(500), ms(1000), LIMIT] {
        for times in [1.1, 1.5, 3.0, 8.0] {
            let mut model = Model::new(limit, 50, times);
            let first = model.run(limit * 4);
            let taken = model.durable;
            let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
            for _ in 0..(limit * 8).as_millis() {
                let lag = model.step();
                (least, most) = (least.min(lag), most.max(lag));
            }
            let context =
                format!("{times} times as fast as the log, limit {limit:?}: {first:?}, then {least:?} to {most:?}");
            assert_eq!(model.refusals, 0, "{context}");
            if times > 1.2 {
                let expected = model.throttle.expected_lag(model.now, &model.behind());
                assert!((limit * 4 / 10..limit * 6 / 10).contains(&expected), "{context}, expected {expected:?}");
            }
            assert!(first < limit && most < limit * 7 / 10, "{context}");
            if times > 1.2 {
                assert!(least > limit * 3 / 10, "{context}");
            }
            // The log is never without work.
            let full = model.log_bytes_a_ms * (limit * 8).as_millis() as u64;
            assert!(model.durable - taken >= full * 99 / 100, "{context}");
        }
    }
}

#[test]
fn without_it_the_same_writers_flap() {
    let mut model = Model::new(LIMIT, 50, 3.0);
    model.is_allowed = false;
    model.run(LIMIT * 12);
    assert!(model.refusals >= 2, "{}", model.refusals);
}

#[test]
fn acknowledgements_may_come_in_batches() {
    let mut model = Model::new(ms(1000), 50, 3.0);
    for batch_ms in [20, 60, 150] {
        model.batch_ms = batch_ms;
        let most = model.run(ms(20_000));
        assert!(model.refusals == 0 && most < ms(1000), "{batch_ms}: {most:?}");
    }
}

#[test]
fn a_log_that_keeps_up_and_stops_for_less_than_the_limit_holds_nobody() {
    for stop in [ms(500), ms(2000), ms(4900), ms(6000), ms(9800)] {
        // In the first case the log lacks something at any time.
        for times in [0.9, 0.4] {
            if times > 0.5 && stop > ms(500) {
                continue;
            }
            let mut model = Model::new(LIMIT, 50, times);
            model.run(ms(5000));
            let pace = std::mem::replace(&mut model.log_bytes_a_ms, 0);
            model.run(stop);
            model.log_bytes_a_ms = pace;
            model.run(ms(20_000));
            assert_eq!((model.throttle.count(), model.refusals), (0, 0), "{stop:?} {times}");
            assert!(model.throttle.expected_lag(model.now, &model.behind()) < ms(100));
        }
    }
}

#[test]
fn a_log_that_stops_for_good_ends_in_refusal_with_nobody_held() {
    for is_throttling_before in [false, true] {
        let mut model = Model::new(LIMIT, 50, if is_throttling_before { 3.0 } else { 0.5 });
        model.run(LIMIT);
        assert_eq!(model.throttle.is_on(), is_throttling_before);
        model.log_bytes_a_ms = 0;
        model.run(LIMIT / 4);
        assert_eq!(model.held.len(), if is_throttling_before { 50 } else { 0 });
        model.run(LIMIT * 2);
        assert!(model.is_refusing && !model.throttle.is_on() && model.held.is_empty());
        assert_eq!((model.refusals, model.throttle.count()), (1, u64::from(is_throttling_before)));
        model.log_bytes_a_ms = 10_000;
        model.run(LIMIT);
        assert!(!model.is_refusing && model.free == 50);
    }
}

#[test]
fn a_log_that_stops_while_writers_are_slowed_down_has_no_more_to_catch_up_with_afterwards() {
    let mut model = Model::new(LIMIT, 50, 3.0);
    model.run(LIMIT * 2);
    let pace = std::mem::replace(&mut model.log_bytes_a_ms, 0);
    model.run(LIMIT / 4);
    model.log_bytes_a_ms = pace;
    model.run(LIMIT * 2);
    assert_eq!((model.refusals, model.throttle.count()), (0, 1));
}

#[test]
fn a_burst_that_the_log_takes_in_its_stride_holds_nobody() {
    let mut model = Model::new(LIMIT, 50, 0.9);
    model.run(ms(3000));
    // As by a pipeline: ten seconds' writes at once, for a log that takes them in half a second.
    model.log_bytes_a_ms = 90 * WRITE * 20;
    for _ in 0..90 * 10_000 {
        model.written += WRITE;
    }
    model.lag.written(model.now, model.written);
    model.run(ms(2000));
    assert_eq!(model.throttle.count(), 0);
}

#[test]
fn bytes_have_a_limit_of_their_own() {
    let mut throttle = Throttle::default();
    let limits = Limits { lag: LIMIT, pending_bytes: 1000 };
    let now = Instant::now();
    let mut judge = |later_ms, pending_bytes| {
        let behind = Behind { lag: ms(1), pending_bytes };
        throttle.judge(now + ms(later_ms), 0, &behind, &limits, true);
        (throttle.is_on(), throttle.window(pending_bytes))
    };
    assert_eq!(judge(0, 500), (false, None));
    assert_eq!(judge(1, 501), (true, Some(500)));
    assert_eq!(judge(2, 400), (true, None), "as much as may be pending");
    assert_eq!(judge(3, 249), (false, None));
}

#[test]
fn times_are_counted() {
    let mut throttle = Throttle::default();
    let limits = Limits { lag: ms(1000), pending_bytes: 1000 };
    let now = Instant::now();
    let far = Behind { lag: ms(900), pending_bytes: 510 };
    assert_eq!(throttle.judge(now, 0, &far, &limits, false), Change::None);
    assert_eq!(throttle.judge(now, 0, &far, &limits, true), Change::Began);
    assert_eq!(throttle.expected_lag(now, &far), ms(900), "nothing is known of the pace");
    assert_eq!((throttle.count(), throttle.time(now + ms(30))), (1, ms(30)));
    assert_eq!(throttle.judge(now + ms(40), 0, &far, &limits, false), Change::Ended(ms(40)));
    throttle.judge(now + ms(50), 0, &far, &limits, true);
    throttle.forget(now + ms(60));
    assert_eq!((throttle.count(), throttle.time(now + ms(90)), throttle.is_on()), (2, ms(50), false));
}
