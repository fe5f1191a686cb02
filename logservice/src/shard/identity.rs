//! Whether this log is the one that its nodes know, and the nodes that say it is not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use durability_protocol::{Code, Known, Refusal, CONTRADICTION_MS, MAX_NODES};

use super::Shard;
use crate::base::log_throttle::say;

/// See [`CONTRADICTION_MS`].
const COUNTS_FOR: Duration = Duration::from_millis(CONTRADICTION_MS);

/// A node that knows otherwise than this log is.
#[derive(Debug, Clone)]
struct Contradiction {
    address: String,
    refusal: Refusal,
    at: Instant,
}

/// The nodes that contradict the log, by name. Kept in memory only. Plain logic: the clock is passed in.
#[derive(Debug, Default)]
pub struct Contradictions {
    nodes: BTreeMap<String, Contradiction>,
    /// An operator has said that the log is right.
    is_accepted: bool,
}

impl Contradictions {
    /// What a node was told that compared what it knows. Answers whether that is news.
    pub fn note(&mut self, node_id: &str, address: &str, result: &Result<(), Refusal>, now: Instant) -> bool {
        let Err(refusal) = result else { return self.nodes.remove(node_id).is_some() };
        self.forget(now);
        if self.nodes.len() >= MAX_NODES && !self.nodes.contains_key(node_id) {
            let silent = self.nodes.iter().min_by_key(|(_, node)| node.at).map(|(id, _)| id.clone());
            silent.map(|id| self.nodes.remove(&id));
        }
        let contradiction = Contradiction { address: address.to_owned(), refusal: refusal.clone(), at: now };
        self.nodes.insert(node_id.to_owned(), contradiction).is_none()
    }

    /// The log is right, whatever nodes say.
    pub fn accept(&mut self) {
        self.is_accepted = true;
    }

    /// Refuses while a node other than `node_id` contradicts the log.
    pub fn check_none(&mut self, shard: &str, node_id: &str, log_id: &str, now: Instant) -> Result<(), Refusal> {
        self.forget(now);
        let Some((other, node)) = self.nodes.iter().find(|(other, _)| *other != node_id).filter(|_| !self.is_accepted)
        else {
            return Ok(());
        };
        let Contradiction { address, refusal, .. } = node;
        let text = format!(
            "{log_id} may be the wrong log, or an old copy ({refusal}: so says node {other} at {address}): nobody leads the shard until the right log is put back, or \
             DURABILITY.ACCEPT-LOG is sent to such a node, or LOG.ACCEPT {shard} {log_id} to the log service"
        );
        Err(Refusal::new(Code::OtherLog, text))
    }

    /// All of them, for people to read; empty if there is none.
    pub fn text(&mut self, now: Instant) -> String {
        self.forget(now);
        let lines = self.nodes.iter().map(|(id, node)| format!("{id} at {}: {}", node.address, node.refusal));
        lines.collect::<Vec<_>>().join("; ")
    }

    fn forget(&mut self, now: Instant) {
        self.nodes.retain(|_, node| now.saturating_duration_since(node.at) < COUNTS_FOR);
    }
}

impl Shard {
    /// The log's id: drawn at random when it began, and kept by each copy of it.
    pub fn log_id(&self) -> String {
        self.log_id.clone()
    }

    /// Whether the log is what a node knows of it; never if the node has seen that it `differs`. One that says otherwise is remembered
    /// for a while. Answers the log's id.
    pub fn check_known(
        &self,
        node_id: &str,
        address: &str,
        known: Option<&Known>,
        differs: bool,
    ) -> Result<String, Refusal> {
        let log_id = self.log_id();
        let mut result = known.map_or(Ok(()), |known| self.judge_known(known));
        if differs && result.is_ok() {
            let text =
                format!("{} is the end of the log, which holds other bytes than the node wrote", self.accepting().end);
            result = Err(Refusal::new(Code::Gap, text));
        }
        // The clock is read under the lock, so that none is noted as of before an earlier one.
        let mut contradictions = self.contradictions();
        let is_news = contradictions.note(node_id, address, &result, self.environment.now());
        drop(contradictions);
        match &result {
            Err(refusal) if is_news => say!(
                self.lines,
                warn,
                "shard {}: THIS MAY BE THE WRONG LOG, OR AN OLD COPY OF THE RIGHT ONE: node {node_id} at {address} says so: {refusal}",
                self.name
            ),
            Ok(()) if is_news => say!(self.lines, info, "shard {}: node {node_id} at {address} takes the log for the right one", self.name),
            _ => {}
        }
        result.map(|()| log_id)
    }

    /// As [`Shard::check_known`]. A service that decides no more and does not know it may lack what was durable since: so a contradiction
    /// counts only if this service certainly was the only one that decides when it was seen. An agreement needs no such proof: whoever
    /// acts on it asks for the lease next, and that is granted by a change of the log.
    ///
    /// # Errors
    /// [`Code::NotLeader`] if a contradiction cannot be confirmed; those of [`Shard::check_known`].
    pub async fn check_node(
        &self,
        node_id: &str,
        address: &str,
        known: Option<&Known>,
        differs: bool,
    ) -> Result<String, Refusal> {
        let contradicts = differs || known.is_some_and(|known| self.judge_known(known).is_err());
        if contradicts {
            self.confirm().await?;
        }
        self.check_known(node_id, address, known, differs)
    }

    /// Whether the log is what `known` says. Nothing is remembered of the answer.
    pub fn judge_known(&self, known: &Known) -> Result<(), Refusal> {
        let log_id = self.log_id();
        let accepting = self.accepting();
        accepting.epochs.check_known(known, &log_id, accepting.end)
    }

    /// An operator says that the log is right as it is, if its id is `log_id`.
    pub fn accept_log(&self, log_id: &str) -> Result<(), Refusal> {
        let own = self.log_id();
        if own != log_id {
            return Err(Refusal::new(
                Code::OtherLog,
                format!("{own} is the id of the log of shard {}, not {log_id}", self.name),
            ));
        }
        self.contradictions().accept();
        say!(
            self.lines,
            warn,
            "shard {}: log {log_id} is accepted as it is; nodes that contradict it keep nobody from leading",
            self.name
        );
        Ok(())
    }

    pub(super) fn check_contradicted_by_none(&self, node_id: &str) -> Result<(), Refusal> {
        let log_id = self.log_id();
        self.contradictions().check_none(&self.name, node_id, &log_id, self.environment.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong() -> Result<(), Refusal> {
        Err(Refusal::new(Code::Gap, "5 is the end of the log"))
    }

    #[test]
    fn while_a_node_contradicts_the_log_no_other_one_leads() {
        let (mut contradictions, start) = (Contradictions::default(), Instant::now());
        let may_lead =
            |contradictions: &mut Contradictions, node: &str, now| contradictions.check_none("s1", node, "id", now);
        assert!(contradictions.note("n1", "a:1", &wrong(), start));
        assert!(!contradictions.note("n1", "a:1", &wrong(), start));
        assert!(may_lead(&mut contradictions, "n2", start).is_err_and(|refusal| {
            refusal.code == Code::OtherLog
                && refusal.detail.contains("node n1 at a:1")
                && refusal.detail.contains("LOG.ACCEPT s1 id")
        }));
        assert_eq!(may_lead(&mut contradictions, "n1", start), Ok(()), "that one has taken it back");
        assert_eq!(contradictions.text(start), "n1 at a:1: GAP 5 is the end of the log");
        assert_eq!(may_lead(&mut contradictions, "n2", start + COUNTS_FOR), Ok(()), "it is not heard of any more");
        assert!(contradictions.note("n1", "a:1", &wrong(), start + COUNTS_FOR));
        assert!(contradictions.note("n1", "a:1", &Ok(()), start + COUNTS_FOR));
        assert_eq!(may_lead(&mut contradictions, "n2", start + COUNTS_FOR), Ok(()));
    }

    #[test]
    fn an_operator_can_say_that_the_log_is_right() {
        let (mut contradictions, now) = (Contradictions::default(), Instant::now());
        contradictions.note("n1", "a:1", &wrong(), now);
        contradictions.accept();
        assert_eq!(contradictions.check_none("s1", "n2", "id", now), Ok(()));
        assert!(!contradictions.text(now).is_empty(), "it is still shown");
    }

    #[test]
    fn no_more_nodes_are_remembered_than_a_shard_has() {
        let (mut contradictions, now) = (Contradictions::default(), Instant::now());
        for number in 0..=MAX_NODES {
            contradictions.note(&format!("n{number}"), "a:1", &wrong(), now);
        }
        assert_eq!(contradictions.nodes.len(), MAX_NODES);
    }
}
