//! How far each log was behind within the last ten minutes, so that whoever looks sees what led to this. Kept in memory only.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::Service;
use crate::shard::Shard;

/// How often a log is looked at.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// How long that is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(600);
/// What a leader told is not used any more when it is older: nobody knows how far the log is behind then.
const FIGURES_LAST: Duration = Duration::from_secs(5);

/// A log at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    at: Instant,
    /// Age in milliseconds of the oldest write that the log has not acknowledged; none if nobody knows.
    lag_ms: Option<u64>,
    /// The age at which writes are refused, in milliseconds; none if nobody knows.
    limit_ms: Option<u64>,
    /// The durable end, exclusive.
    durable_end: u64,
    /// Whether the leader refused writes.
    is_refusing: bool,
}

impl Sample {
    fn of(shard: &Shard, at: Instant) -> Self {
        let figures = shard.leader_figures().filter(|(_, age)| *age <= FIGURES_LAST).map(|(figures, _)| figures);
        Sample {
            at,
            lag_ms: figures.map(|figures| figures.lag_ms),
            limit_ms: figures.map(|figures| figures.max_lag_ms),
            durable_end: shard.notifier().durable(),
            is_refusing: figures.is_some_and(|figures| figures.refusing_writes > 0),
        }
    }
}

/// What is remembered of all logs.
#[derive(Debug, Default)]
pub(super) struct Histories(BTreeMap<String, VecDeque<Sample>>);

impl Histories {
    /// Adds a sample of each log. Others are forgotten: they are not served any more.
    fn add(&mut self, samples: Vec<(String, Sample)>) {
        let mut before = std::mem::take(&mut self.0);
        for (shard, sample) in samples {
            let mut kept = before.remove(&shard).unwrap_or_default();
            kept.push_back(sample);
            let is_old = |first: &Sample| sample.at.saturating_duration_since(first.at) > REMEMBERED;
            while kept.front().is_some_and(is_old) {
                kept.pop_front();
            }
            self.0.insert(shard, kept);
        }
    }

    fn of(&self, shard: &str, now: Instant) -> History {
        let samples = self.0.get(shard).into_iter().flatten().copied().collect();
        History { samples, now }
    }
}

/// How far a log was behind, the oldest sample first.
#[derive(Debug)]
pub struct History {
    samples: Vec<Sample>,
    now: Instant,
}

impl Serialize for History {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A list for each figure takes a third of what an object for each sample would.
        let age_ms = |sample: &Sample| self.now.saturating_duration_since(sample.at).as_millis() as u64;
        let mut fields = serializer.serialize_struct("History", 5)?;
        fields.serialize_field("age_ms", &self.samples.iter().map(age_ms).collect::<Vec<_>>())?;
        fields.serialize_field("lag_ms", &self.samples.iter().map(|it| it.lag_ms).collect::<Vec<_>>())?;
        fields.serialize_field("limit_ms", &self.samples.iter().map(|it| it.limit_ms).collect::<Vec<_>>())?;
        fields.serialize_field("durable_end", &self.samples.iter().map(|it| it.durable_end).collect::<Vec<_>>())?;
        fields.serialize_field("refusing", &self.samples.iter().map(|it| it.is_refusing).collect::<Vec<_>>())?;
        fields.end()
    }
}

impl Service {
    /// Looks at the logs for as long as this service is there. Once. Must run within the runtime.
    pub fn keep_histories(&self) {
        let this = self.this.clone();
        tokio::spawn(async move {
            let mut looks = tokio::time::interval(SAMPLE_EVERY);
            looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                let Some(service) = this.upgrade() else { return };
                let now = Instant::now();
                let sample = |shard: std::sync::Arc<Shard>| (shard.name().to_owned(), Sample::of(&shard, now));
                let samples = service.open_shards().into_iter().map(sample).collect();
                service.lock_histories().add(samples);
            }
        });
    }

    /// How far the log of a shard was behind; empty if it is not served, or was not until now.
    pub fn history(&self, shard: &str) -> History {
        self.lock_histories().of(shard, Instant::now())
    }

    fn lock_histories(&self) -> MutexGuard<'_, Histories> {
        self.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant, durable_end: u64) -> Sample {
        Sample { at, lag_ms: None, limit_ms: Some(10_000), durable_end, is_refusing: false }
    }

    #[test]
    fn ten_minutes_are_remembered_of_what_is_served() {
        let (mut histories, start) = (Histories::default(), Instant::now());
        for second in 0..=700 {
            let at = start + Duration::from_secs(second);
            let mut samples = vec![("s1".to_owned(), sample(at, second))];
            samples.extend((second < 5).then(|| ("gone".to_owned(), sample(at, 0))));
            histories.add(samples);
        }
        let now = start + Duration::from_secs(700);
        assert!(histories.of("gone", now).samples.is_empty() && histories.of("never", now).samples.is_empty());
        let kept = histories.of("s1", now).samples;
        assert_eq!((kept.len(), kept[0].durable_end, kept[600].durable_end), (601, 100, 700));
    }

    #[test]
    fn what_nobody_knows_is_null() {
        let now = Instant::now();
        let refusing = Sample { lag_ms: Some(11_000), is_refusing: true, ..sample(now, 7) };
        let history = History { samples: vec![sample(now, 5), refusing], now: now + Duration::from_millis(1500) };
        let json = serde_json::to_string(&history).expect("serializes");
        let expected = r#"{"age_ms":[1500,1500],"lag_ms":[null,11000],"limit_ms":[10000,10000],"durable_end":[5,7],"refusing":[false,true]}"#;
        assert_eq!(json, expected);
    }
}
