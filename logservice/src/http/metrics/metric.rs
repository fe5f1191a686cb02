//! What a metric is, and how one is written.

use std::borrow::Cow;
use std::fmt;

use durability_protocol::NodeFigures;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::base::latency::{LatencyCounts, BOUNDS_US};
use crate::replica::groups::ServiceStatus;
use crate::service::overview::{Overview, ShardOverview};
use crate::service::replication::CopyStatus;
use crate::shard::{NodeStatus, Status};

/// A metric.
pub struct Metric {
    /// Its name, with its unit and the ending of its type.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What it is about, and how it is read from that.
    pub of: Of,
    /// What it means, without a full stop.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It goes up, and begins anew.
    Counter,
    /// Times in seconds.
    Histogram,
}

/// Takes the values of labels, and the value.
pub type Sink<'a> = dyn FnMut(&[&str], f64) + 'a;

/// What a metric is about. A value that is none is not shown.
pub enum Of {
    /// The service.
    Service(fn(&Overview) -> Option<f64>),
    /// The service: times.
    ServiceTimes(fn(&Overview) -> LatencyCounts),
    /// Each service of the cluster.
    Peer(fn(&ServiceStatus) -> Option<f64>),
    /// Each shard.
    Shard(fn(&Status) -> Option<f64>),
    /// Each shard: times.
    ShardTimes(fn(&ShardOverview) -> Option<LatencyCounts>),
    /// Each copy of each shard.
    Copy(fn(&CopyStatus) -> Option<f64>),
    /// Each node of each shard.
    Node(fn(&NodeStatus) -> Option<f64>),
    /// Each node of each shard that reports figures.
    Figure(fn(&NodeFigures) -> Option<f64>),
    /// Anything, with labels of its own.
    Labelled(&'static [&'static str], fn(&Overview, &mut Sink<'_>)),
}

impl Kind {
    /// As the documents call it.
    #[cfg(test)]
    pub fn word(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        }
    }

    fn metric_type(self) -> MetricType {
        match self {
            Kind::Gauge => MetricType::Gauge,
            Kind::Counter => MetricType::Counter,
            Kind::Histogram => MetricType::Histogram,
        }
    }
}

impl Of {
    /// The names of its labels.
    pub fn labels(&self) -> &'static [&'static str] {
        match self {
            Of::Service(_) | Of::ServiceTimes(_) => &[],
            Of::Peer(_) => &["service", "zone"],
            Of::Shard(_) | Of::ShardTimes(_) => &["shard"],
            Of::Copy(_) => &["shard", "service", "zone"],
            Of::Node(_) | Of::Figure(_) => &["shard", "node"],
            Of::Labelled(labels, _) => labels,
        }
    }
}

impl Metric {
    /// Writes all its values.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn encode(&self, overview: &Overview, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        // The encoder adds the ending of counters.
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        let help = format!("{}.", self.help);
        let mut encoder = encoder.encode_descriptor(name, &help, None, self.kind.metric_type())?;
        let labels = self.of.labels();
        let mut done = Ok(());
        let mut put = |values: &[&str], value: Option<f64>| {
            if let (Some(value), Ok(())) = (value, done) {
                done = self.put(&mut encoder, labels, values, value);
            }
        };
        let shards = || overview.shards.iter().map(|shard| (shard, shard.status.shard.as_str()));
        match &self.of {
            Of::Service(value) => put(&[], value(overview)),
            Of::Peer(value) => {
                overview.services.iter().for_each(|service| put(&[&service.name, &service.zone], value(service)));
            }
            Of::Shard(value) => shards().for_each(|(shard, name)| put(&[name], value(&shard.status))),
            Of::Copy(value) => shards().for_each(|(shard, name)| {
                for copy in &shard.copies {
                    put(&[name, &copy.service.name, &copy.service.zone], value(copy));
                }
            }),
            Of::Node(value) => shards().for_each(|(shard, name)| {
                shard.status.nodes.iter().for_each(|node| put(&[name, &node.id], value(node)));
            }),
            Of::Figure(value) => shards().for_each(|(shard, name)| {
                for node in &shard.status.nodes {
                    put(&[name, &node.id], node.figures.as_ref().and_then(value));
                }
            }),
            Of::Labelled(_, values) => values(overview, &mut |labels, value| put(labels, Some(value))),
            Of::ServiceTimes(times) => return put_times(&mut encoder, &times(overview)),
            Of::ShardTimes(times) => {
                for (shard, name) in shards() {
                    let Some(times) = times(shard) else { continue };
                    put_times(&mut encoder.encode_family(&[("shard", escaped(name))])?, &times)?;
                }
                return Ok(());
            }
        }
        done
    }

    fn put(&self, encoder: &mut MetricEncoder<'_>, names: &[&str], values: &[&str], value: f64) -> fmt::Result {
        debug_assert_eq!(names.len(), values.len(), "{}", self.name);
        let labels: Vec<_> = names.iter().zip(values).map(|(name, value)| (*name, escaped(value))).collect();
        if labels.is_empty() {
            self.put_value(encoder, value)
        } else {
            self.put_value(&mut encoder.encode_family(&labels)?, value)
        }
    }

    fn put_value(&self, encoder: &mut MetricEncoder<'_>, value: f64) -> fmt::Result {
        match self.kind {
            Kind::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            Kind::Gauge | Kind::Histogram => encoder.encode_gauge(&value),
        }
    }
}

/// The value of a label as it stands between quotation marks: the encoder escapes nothing.
fn escaped(value: &str) -> Cow<'_, str> {
    if value.contains(['\\', '"', '\n']) {
        value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
    } else {
        value.into()
    }
}

fn put_times(encoder: &mut MetricEncoder<'_>, times: &LatencyCounts) -> fmt::Result {
    let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::MAX]);
    let buckets: Vec<(f64, u64)> = bounds.zip(times.counts).collect();
    let count: u64 = times.counts.iter().sum();
    encoder.encode_histogram::<NoLabelSet>(times.total_us as f64 / 1e6, count, &buckets, None)
}
