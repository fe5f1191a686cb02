//! The nodes that a shard has heard of: what they say of themselves, and how far they are behind. Kept in memory only.
//! Plain logic: the clock is passed in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durability_protocol::{NodeFigures, NodeSettings, MAX_NODES};
use serde::{Deserialize, Serialize, Serializer};

use super::differences::Difference;

/// A node that was not heard of for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// A node that was not heard of for so long is not compared with others.
const COMPARED_FOR: Duration = Duration::from_secs(30);

/// What a node does, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It leads.
    Leader,
    /// It follows the log.
    Follower,
    /// It is on its way to do either.
    Attaching,
}

impl Role {
    /// As it stands in commands and answers.
    pub fn word(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Attaching => "attaching",
        }
    }

    /// The role of that name.
    pub fn from_word(word: &str) -> Option<Self> {
        [Role::Leader, Role::Follower, Role::Attaching].into_iter().find(|role| role.word() == word)
    }
}

/// What a node says of itself.
#[derive(Debug, Clone)]
pub struct Heard<'a> {
    /// Its name.
    pub node_id: &'a str,
    /// Where it is reached.
    pub address: &'a str,
    /// What it does.
    pub role: Role,
    /// How much it is wanted as a leader; 0 never.
    pub priority: u16,
    /// Exclusive end of what it has applied.
    pub applied: u64,
    /// How long it waits for an answer, and so is not heard of at most.
    pub wait: Duration,
    /// The zone that it is in; empty if it tells none.
    pub zone: &'a str,
    /// What it tells for monitoring, if it does.
    pub figures: Option<NodeFigures>,
    /// What it tells of its users and settings, if it does.
    pub settings: Option<Arc<NodeSettings>>,
}

/// A node as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub id: String,
    /// Where it is reached.
    pub address: String,
    /// What it does, as it said last.
    pub role: Role,
    /// How much it is wanted as a leader; 0 never.
    pub priority: u16,
    /// Exclusive end of what it had applied when it was heard of last.
    pub applied: u64,
    /// Bytes from there to the visible end.
    pub lag_bytes: u64,
    /// Age in milliseconds of the oldest byte of those; 0 if there are none.
    pub lag_ms: u64,
    /// Milliseconds since it was heard of: since its last poll came, whether that still waits or not.
    pub contact_ms: u64,
    /// Milliseconds since its last poll was answered at the latest, 0 if that may still wait: for so long it was silent at least.
    #[serde(skip)]
    pub silent_ms: u64,
    /// The zone that it is in; empty if it tells none.
    pub zone: String,
    /// What it told for monitoring when it was heard of last; none if it tells nothing.
    #[serde(serialize_with = "figures_as_map")]
    pub figures: Option<NodeFigures>,
    /// Which of its users and settings are others than those of the leader, or of the first node while none leads.
    pub differences: Vec<Difference>,
}

/// The figures by their names, and the mode as a word.
fn figures_as_map<S: Serializer>(figures: &Option<NodeFigures>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(figures) = figures else { return serializer.serialize_none() };
    let numbers = figures.numbers().into_iter().map(|(name, number)| (name, serde_json::Value::from(number)));
    serializer.collect_map(std::iter::once(("mode", figures.mode.word().into())).chain(numbers))
}

/// What one service tells another of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    id: String,
    address: String,
    role: Role,
    priority: u16,
    applied: u64,
    /// Milliseconds since it was heard of.
    contact_ms: u64,
    /// Milliseconds for which its last poll may have waited.
    wait_ms: u64,
    zone: String,
    /// As a node sends them; none from a service of an earlier version.
    #[serde(default)]
    figures: Option<String>,
    /// As a node sends them; none from a service of an earlier version.
    #[serde(default)]
    settings: Option<String>,
}

#[derive(Debug, Clone)]
struct Known {
    address: String,
    role: Role,
    priority: u16,
    applied: u64,
    at: Instant,
    wait: Duration,
    zone: String,
    figures: Option<NodeFigures>,
    settings: Option<Arc<NodeSettings>>,
}

/// The nodes of a shard, by name.
#[derive(Debug, Clone, Default)]
pub struct Nodes(BTreeMap<String, Known>);

impl Nodes {
    /// A node tells of itself. If there are too many, the one that was not heard of for the longest time is forgotten.
    pub fn hear(&mut self, heard: Heard<'_>, now: Instant) {
        let Heard { node_id, address, role, priority, applied, wait, zone, figures, settings } = heard;
        self.forget(now);
        if self.0.len() >= MAX_NODES && !self.0.contains_key(node_id) {
            let silent = self.0.iter().min_by_key(|(_, known)| known.at).map(|(id, _)| id.clone());
            silent.map(|id| self.0.remove(&id));
        }
        let (address, zone) = (address.to_owned(), zone.to_owned());
        let known = Known { address, role, priority, applied, at: now, wait, zone, figures, settings };
        self.0.insert(node_id.to_owned(), known);
    }

    /// All that are known, for another service.
    pub fn report(&mut self, now: Instant) -> Vec<NodeReport> {
        self.forget(now);
        let report = |(id, known): (&String, &Known)| NodeReport {
            id: id.clone(),
            address: known.address.clone(),
            role: known.role,
            priority: known.priority,
            applied: known.applied,
            contact_ms: now.saturating_duration_since(known.at).as_millis() as u64,
            wait_ms: known.wait.as_millis() as u64,
            zone: known.zone.clone(),
            figures: known.figures.map(|figures| figures.text()),
            settings: known.settings.as_ref().map(|settings| settings.text()),
        };
        self.0.iter().map(report).collect()
    }

    /// What another service knows takes the place of what was known.
    pub fn take_report(&mut self, reports: Vec<NodeReport>, now: Instant) {
        let known = |report: NodeReport| {
            let NodeReport { id, address, role, priority, applied, contact_ms, wait_ms, zone, figures, settings } =
                report;
            let at = now.checked_sub(Duration::from_millis(contact_ms)).unwrap_or(now);
            let wait = Duration::from_millis(wait_ms);
            // The service that was told them has checked them; another version may know them otherwise.
            let figures = figures.and_then(|figures| NodeFigures::parse(&figures).ok());
            let settings = settings.and_then(|settings| NodeSettings::parse(&settings).ok()).map(Arc::new);
            (id, Known { address, role, priority, applied, at, wait, zone, figures, settings })
        };
        self.0 = reports.into_iter().take(MAX_NODES).map(known).collect();
    }

    /// The zone of a node; empty if it is not known.
    pub fn zone(&self, node_id: &str) -> &str {
        self.0.get(node_id).map_or("", |known| &known.zone)
    }

    /// Where a node is reached, if it is known.
    pub fn address(&self, node_id: &str) -> Option<&str> {
        self.0.get(node_id).map(|known| known.address.as_str())
    }

    /// What a node told for monitoring, and how old that is; none if it told nothing.
    pub fn figures(&self, node_id: &str, now: Instant) -> Option<(NodeFigures, Duration)> {
        let known = self.0.get(node_id)?;
        let figures = known.figures?;
        let age = now.saturating_duration_since(known.at) + Duration::from_millis(figures.age_ms);
        Some((figures, age))
    }

    /// All that are known, in order of their names, when the visible end is `end`. `age` tells how long ago a byte below it came.
    pub fn list(&mut self, end: u64, age: impl Fn(u64) -> Duration, now: Instant) -> Vec<NodeStatus> {
        self.forget(now);
        let compared_with = self.compared_with(now);
        let status = |(id, known): (&String, &Known)| {
            let lag_bytes = end.saturating_sub(known.applied);
            let since_contact = now.saturating_duration_since(known.at);
            NodeStatus {
                id: id.clone(),
                address: known.address.clone(),
                role: known.role,
                priority: known.priority,
                applied: known.applied,
                lag_bytes,
                lag_ms: if lag_bytes > 0 { age(known.applied).as_millis() as u64 } else { 0 },
                contact_ms: since_contact.as_millis() as u64,
                silent_ms: since_contact.saturating_sub(known.wait).as_millis() as u64,
                zone: known.zone.clone(),
                figures: known.figures,
                differences: differences(compared_with, known, now),
            }
        };
        self.0.iter().map(status).collect()
    }

    /// The node whose settings the others should have: who leads, or else the first.
    fn compared_with(&self, now: Instant) -> Option<(&str, &NodeSettings)> {
        let told = self.0.iter().filter(|(_, known)| is_compared(known, now));
        let (id, known) = told.max_by_key(|(id, known)| (known.role == Role::Leader, std::cmp::Reverse(*id)))?;
        Some((id, known.settings.as_deref()?))
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, known| now.saturating_duration_since(known.at) < FORGET_AFTER);
    }
}

fn is_compared(known: &Known, now: Instant) -> bool {
    known.settings.is_some() && now.saturating_duration_since(known.at) < COMPARED_FOR
}

fn differences(with: Option<(&str, &NodeSettings)>, known: &Known, now: Instant) -> Vec<Difference> {
    match (with, &known.settings) {
        (Some((other_node, other)), Some(own)) if is_compared(known, now) => {
            Difference::between(own, other_node, other)
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;
