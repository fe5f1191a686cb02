//! The nodes that a shard has heard of: what they say of themselves, and how far they are behind. Kept in memory only.
//! Plain logic: the clock is passed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use durability_protocol::{NodeFigures, MAX_NODES};
use serde::{Deserialize, Serialize, Serializer};

/// A node that was not heard of for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

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
#[derive(Debug, Clone, Copy)]
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
}

/// The nodes of a shard, by name.
#[derive(Debug, Clone, Default)]
pub struct Nodes(BTreeMap<String, Known>);

impl Nodes {
    /// A node tells of itself. If there are too many, the one that was not heard of for the longest time is forgotten.
    pub fn hear(&mut self, heard: Heard<'_>, now: Instant) {
        let Heard { node_id, address, role, priority, applied, wait, zone, figures } = heard;
        self.forget(now);
        if self.0.len() >= MAX_NODES && !self.0.contains_key(node_id) {
            let silent = self.0.iter().min_by_key(|(_, known)| known.at).map(|(id, _)| id.clone());
            silent.map(|id| self.0.remove(&id));
        }
        let (address, zone) = (address.to_owned(), zone.to_owned());
        let known = Known { address, role, priority, applied, at: now, wait, zone, figures };
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
        };
        self.0.iter().map(report).collect()
    }

    /// What another service knows takes the place of what was known.
    pub fn take_report(&mut self, reports: Vec<NodeReport>, now: Instant) {
        let known = |report: NodeReport| {
            let NodeReport { id, address, role, priority, applied, contact_ms, wait_ms, zone, figures } = report;
            let at = now.checked_sub(Duration::from_millis(contact_ms)).unwrap_or(now);
            let wait = Duration::from_millis(wait_ms);
            // The service that was told them has checked them; another version may know them otherwise.
            let figures = figures.and_then(|figures| NodeFigures::parse(&figures).ok());
            (id, Known { address, role, priority, applied, at, wait, zone, figures })
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
            }
        };
        self.0.iter().map(status).collect()
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, known| now.saturating_duration_since(known.at) < FORGET_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(node_id: &str, applied: u64) -> Heard<'_> {
        Heard {
            node_id,
            address: "host:1",
            role: Role::Follower,
            priority: 100,
            applied,
            wait: Duration::ZERO,
            zone: "",
            figures: None,
        }
    }

    fn ids(nodes: &mut Nodes, now: Instant) -> Vec<String> {
        nodes.list(0, |_| Duration::ZERO, now).into_iter().map(|node| node.id).collect()
    }

    #[test]
    fn nodes_are_listed_by_name_with_how_far_they_are_behind() {
        let (mut nodes, start) = (Nodes::default(), Instant::now());
        nodes.hear(heard("n2", 40), start);
        nodes.hear(Heard { role: Role::Leader, ..heard("n1", 120) }, start + Duration::from_millis(5));
        nodes.hear(heard("n3", 100), start + Duration::from_millis(12));
        let age = |offset| Duration::from_millis(1000 - offset);
        let listed = nodes.list(100, age, start + Duration::from_millis(12));
        let figures: Vec<_> = listed
            .iter()
            .map(|node| (&node.id[..], node.role, node.applied, node.lag_bytes, node.lag_ms, node.contact_ms))
            .collect();
        // A leader is ahead of the log by what it is writing.
        let expected = [
            ("n1", Role::Leader, 120, 0, 0, 7),
            ("n2", Role::Follower, 40, 60, 960, 12),
            ("n3", Role::Follower, 100, 0, 0, 0),
        ];
        assert_eq!(figures, expected);
    }

    #[test]
    fn what_a_node_said_last_counts() {
        let (mut nodes, start) = (Nodes::default(), Instant::now());
        nodes.hear(heard("n1", 0), start);
        let later = start + Duration::from_secs(5);
        let priority = 7;
        nodes.hear(Heard { address: "other:2", role: Role::Attaching, priority, ..heard("n1", 9) }, later);
        assert_eq!((nodes.address("n1"), nodes.address("n2")), (Some("other:2"), None));
        let listed = nodes.list(9, |_| Duration::ZERO, later);
        let id = "n1".to_owned();
        let (address, role) = ("other:2".to_owned(), Role::Attaching);
        let expected = NodeStatus {
            id,
            address,
            role,
            priority,
            applied: 9,
            lag_bytes: 0,
            lag_ms: 0,
            contact_ms: 0,
            silent_ms: 0,
            zone: String::new(),
            figures: None,
        };
        assert_eq!(listed, [expected]);
    }

    #[test]
    fn what_one_service_reports_another_shows_as_that_one_does() {
        let (mut nodes, start) = (Nodes::default(), Instant::now());
        nodes.hear(Heard { wait: Duration::from_millis(100), zone: "z1", ..heard("n1", 40) }, start);
        let figures = Some(NodeFigures { lag_ms: 17, ..NodeFigures::default() });
        nodes.hear(Heard { role: Role::Leader, figures, ..heard("n2", 90) }, start + Duration::from_millis(30));
        let later = start + Duration::from_millis(250);
        let mut others = Nodes::default();
        others.hear(heard("gone", 0), start);
        let told = serde_json::to_string(&nodes.report(later)).expect("serializes");
        others.take_report(serde_json::from_str(&told).expect("parses"), later);
        let age = |_| Duration::from_secs(1);
        assert_eq!(others.list(100, age, later), nodes.list(100, age, later));
        assert_eq!(others.list(100, age, later)[1].figures, figures);
        let later_still = later + Duration::from_millis(80);
        assert_eq!(others.figures("n2", later_still), figures.map(|it| (it, Duration::from_millis(300))));
        assert_eq!((others.figures("n1", later), others.figures("gone", later)), (None, None));
        assert_eq!((others.zone("n1"), others.zone("n2"), others.zone("gone")), ("z1", "", ""));
    }

    #[test]
    fn a_node_is_not_silent_as_long_as_its_poll_may_wait() {
        let (mut nodes, start) = (Nodes::default(), Instant::now());
        nodes.hear(Heard { wait: Duration::from_secs(5), ..heard("n1", 0) }, start);
        let mut after = |ms| {
            let listed = nodes.list(0, |_| Duration::ZERO, start + Duration::from_millis(ms));
            (listed[0].contact_ms, listed[0].silent_ms)
        };
        assert_eq!((after(5000), after(5001)), ((5000, 0), (5001, 1)));
    }

    #[test]
    fn a_node_is_forgotten_after_an_hour_without_contact() {
        let (mut nodes, start) = (Nodes::default(), Instant::now());
        nodes.hear(heard("n1", 0), start);
        nodes.hear(heard("n2", 0), start + Duration::from_secs(1));
        assert_eq!(ids(&mut nodes, start + FORGET_AFTER - Duration::from_millis(1)), ["n1", "n2"]);
        assert_eq!(ids(&mut nodes, start + FORGET_AFTER), ["n2"]);
        nodes.hear(heard("n3", 0), start + FORGET_AFTER * 2);
        assert_eq!(nodes.0.len(), 1, "also if nobody looks");
    }

    #[test]
    fn one_too_many_takes_the_place_of_the_most_silent_one() {
        let (mut nodes, start) = (Nodes::default(), Instant::now());
        let name = |number: usize| format!("n{number:02}");
        for number in 0..MAX_NODES {
            nodes.hear(heard(&name(number), 0), start + Duration::from_millis(number as u64));
        }
        let later = start + Duration::from_secs(1);
        nodes.hear(heard(&name(0), 0), later);
        assert_eq!(nodes.0.len(), MAX_NODES, "it is known already");
        nodes.hear(heard("another", 0), later);
        let ids = ids(&mut nodes, later);
        assert_eq!(ids.len(), MAX_NODES);
        assert!(ids.contains(&name(0)) && !ids.contains(&name(1)) && ids.contains(&"another".to_owned()));
    }

    #[test]
    fn roles_survive_their_words() {
        for role in [Role::Leader, Role::Follower, Role::Attaching] {
            assert_eq!(Role::from_word(role.word()), Some(role));
        }
        assert_eq!(Role::from_word("Leader"), None);
    }
}
