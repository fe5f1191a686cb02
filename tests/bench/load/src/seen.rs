//! What is counted.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{json, Value};

use crate::connection::Asked;
use crate::requests::Kind;
use crate::Result;

/// Times to three digits, up to a minute.
const LONGEST_US: u64 = 60_000_000;

/// What a load has seen. Times count from its beginning.
pub struct Seen {
    from: Duration,
    until: Duration,
    reads: Histogram<u64>,
    writes: Histogram<u64>,
    lateness: Histogram<u64>,
    /// Answered while it was counted, due then or before.
    answered: u64,
    /// Due while it was counted, and never answered.
    unanswered: u64,
    errors: u64,
    /// Answered at any time.
    all: u64,
}

impl Seen {
    /// What is due from `from` on and before `until` is counted.
    pub fn new(from: Duration, until: Duration) -> Result<Self> {
        let times = || Histogram::new_with_max(LONGEST_US, 3);
        let (reads, writes, lateness) = (times()?, times()?, times()?);
        Ok(Seen { from, until, reads, writes, lateness, answered: 0, unanswered: 0, errors: 0, all: 0 })
    }

    fn counts(&self, time: Duration) -> bool {
        (self.from..self.until).contains(&time)
    }

    /// A reply came.
    pub fn answered(&mut self, asked: Asked, now: Duration, is_error: bool) {
        self.all += 1;
        self.errors += u64::from(is_error);
        self.answered += u64::from(self.counts(now));
        if self.counts(asked.due) {
            self.lateness.saturating_record(us(asked.sent.saturating_sub(asked.due)));
            self.times(asked.kind).saturating_record(us(now.saturating_sub(asked.due)));
        }
    }

    /// A request that was sent was not answered until `now`. It counts as if it was then: it took no less.
    pub fn unanswered(&mut self, asked: Asked, now: Duration) {
        if self.counts(asked.due) {
            self.unanswered += 1;
            self.times(asked.kind).saturating_record(us(now.saturating_sub(asked.due)));
        }
    }

    fn times(&mut self, kind: Kind) -> &mut Histogram<u64> {
        match kind {
            Kind::Read => &mut self.reads,
            Kind::Write => &mut self.writes,
        }
    }

    /// All of it. Times are in microseconds.
    pub fn json(&self) -> Value {
        let times = |times: &Histogram<u64>| {
            json!({
                "count": times.len(),
                "p50_us": times.value_at_quantile(0.5),
                "p90_us": times.value_at_quantile(0.9),
                "p99_us": times.value_at_quantile(0.99),
                "max_us": times.max(),
            })
        };
        let seconds = self.until.saturating_sub(self.from).as_secs_f64();
        json!({
            "requests_per_second": self.answered as f64 / seconds,
            "reads": times(&self.reads),
            "writes": times(&self.writes),
            "late_p99_us": self.lateness.value_at_quantile(0.99),
            "unanswered": self.unanswered,
            "errors": self.errors,
            "all_requests": self.all,
        })
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_in_time_counts_from_when_it_was_due() {
        let ms = Duration::from_millis;
        let mut seen = Seen::new(ms(100), ms(200)).expect("bounds");
        let asked = |kind, due| Asked { kind, due: ms(due), sent: ms(due + 5) };
        seen.answered(asked(Kind::Read, 99), ms(150), false);
        seen.answered(asked(Kind::Read, 110), ms(130), false);
        seen.answered(asked(Kind::Write, 120), ms(260), true);
        seen.unanswered(asked(Kind::Write, 190), ms(390));
        seen.unanswered(asked(Kind::Write, 200), ms(390));
        let json = seen.json();
        assert_eq!(json["requests_per_second"], 20.0);
        assert_eq!((&json["reads"]["count"], &json["reads"]["p50_us"]), (&json!(1), &json!(20_015)));
        assert_eq!((&json["writes"]["count"], &json["writes"]["max_us"]), (&json!(2), &json!(200_063)));
        assert_eq!((&json["unanswered"], &json["errors"], &json["all_requests"]), (&json!(1), &json!(1), &json!(3)));
    }
}
