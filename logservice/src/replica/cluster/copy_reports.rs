//! What services tell each other of their copies once a second, and what follows from it.
//!
//! - Equal index, equal running checksum. A copy that differs from others' stops, alone. If two others are against it, it is fetched anew as a
//!   damaged one. If only the service that decides is known to be, nobody can tell which one is right: it stays stopped for people to look.
//! - A copy that has lost what it may have acknowledged needs a leader of a later term (`group/lost.rs`): who decides hands over.
//! - If too few copies have space for what is appended, the service that decides refuses appends instead of letting them wait.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::lock;
use crate::replica::driver::FailureKind;
use crate::replica::group::GroupStatus;

/// What was told longer ago counts no more.
const FRESH: Duration = Duration::from_secs(5);

/// One copy, as its service tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopyReport {
    pub group: String,
    /// Whether its service decides over the log.
    pub decides: bool,
    /// The term in which it may have acknowledged what it has lost.
    pub lost_in: Option<u64>,
    /// Whether it takes no entries for want of space.
    pub is_full: bool,
    /// Indexes, ascending, and the running checksums after the entries there.
    pub marks: Vec<(u64, u32)>,
}

/// What a service tells of its copies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    pub member: u64,
    pub copies: Vec<CopyReport>,
}

/// What other services have told last.
#[derive(Default)]
pub(super) struct Reports(Mutex<HashMap<(String, u64), (Instant, CopyReport)>>);

impl Reports {
    /// Takes what a service tells.
    pub fn take(&self, report: Report) {
        let (mut known, now) = (lock(&self.0), Instant::now());
        known.retain(|_, (at, _)| now.duration_since(*at) < FRESH);
        for copy in report.copies {
            known.insert((copy.group.clone(), report.member), (now, copy));
        }
    }

    /// What the others have told of the copies of a group a moment ago, with their members.
    pub fn of(&self, group: &str) -> Vec<(u64, CopyReport)> {
        self.fresh(group, |_| true)
    }

    /// The same, of what was told after `moment`.
    pub fn of_after(&self, group: &str, moment: Instant) -> Vec<(u64, CopyReport)> {
        self.fresh(group, |at| at > moment)
    }

    fn fresh(&self, group: &str, counts: impl Fn(Instant) -> bool) -> Vec<(u64, CopyReport)> {
        let (known, now) = (lock(&self.0), Instant::now());
        let fresh =
            known.iter().filter(|((of, _), (at, _))| of == group && now.duration_since(*at) < FRESH && counts(*at));
        fresh.map(|((_, member), (_, copy))| (*member, copy.clone())).collect()
    }
}

impl CopyReport {
    /// What is told of a copy. Of its marks only the last two: others find them among theirs, or theirs among these.
    pub fn new(group: &str, status: &GroupStatus, is_full: bool) -> Self {
        let marks = status.marks[status.marks.len().saturating_sub(2)..].to_vec();
        let (group, decides) = (group.to_owned(), status.is_leader);
        CopyReport { group, decides, lost_in: status.lost_in, is_full, marks }
    }
}

/// A copy of another service: its member, whether that one decides, and where it differs, if it does: the index, and the checksums here and there.
type Compared = (u64, bool, Option<(u64, u32, u32)>);

/// Whether this service's copy is wrong, by what the others have told, and what can be done about it.
pub(super) fn judge(own: &GroupStatus, others: &[(u64, CopyReport)]) -> Option<(FailureKind, String)> {
    let differs = |report: &CopyReport| {
        let pair = |(index, theirs): &(u64, u32)| {
            let at = own.marks.binary_search_by_key(index, |(own, _)| *own).ok()?;
            Some((*index, own.marks[at].1, *theirs))
        };
        let known: Vec<(u64, u32, u32)> = report.marks.iter().filter_map(pair).collect();
        let different = known.iter().find(|(_, own, theirs)| own != theirs).copied();
        (!known.is_empty()).then_some(different)
    };
    let compared: Vec<Compared> = others
        .iter()
        .filter_map(|(member, report)| Some((*member, own.leader == Some(*member) || report.decides, differs(report)?)))
        .collect();
    let against: Vec<_> =
        compared.iter().filter_map(|(member, leads, different)| Some((member, leads, (*different)?))).collect();
    if against.len() < compared.len() {
        // Somebody has the same: the one that is alone is wrong, and finds that out itself.
        return None;
    }
    let (_, _, (index, ours, theirs)) = against.first()?;
    let text = format!(
        "after the entry of index {index} its running checksum is {ours:08x}, and that of {} is {theirs:08x}",
        if against.len() > 1 { "the others" } else { "the service that decides" }
    );
    let is_led = against.iter().any(|(_, leads, _)| **leads);
    match against.len() {
        2.. => Some((FailureKind::Damaged, format!("damaged: {text}"))),
        _ if is_led && !own.is_leader => Some((
            FailureKind::Other,
            format!("{text}, and no third copy says which one is right: run logservice check on both directories"),
        )),
        _ => None,
    }
}

/// Why appends cannot become durable, if too few services have space. Asked where the log is decided over.
pub(super) fn no_space(own: u64, status: &GroupStatus, others: &[(u64, CopyReport)]) -> Option<String> {
    let is_full = |member: u64| others.iter().any(|(of, report)| *of == member && report.is_full);
    let voters = &status.members.voters;
    let can_store = |&&(member, _, is_heard): &&(u64, u64, bool)| {
        voters.contains(&member) && (is_heard || member == own) && !is_full(member)
    };
    let (able, full) =
        (status.copies.iter().filter(can_store).count(), voters.iter().filter(|&&voter| is_full(voter)).count());
    if full == 0 || able > voters.len() / 2 {
        return None;
    }
    Some(format!(
        "{full} of {} log services have no space for the log, and too few others answer: free some there",
        voters.len()
    ))
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::ConfState;

    use super::*;
    use crate::replica::copy::Position;

    fn own(is_leader: bool, marks: &[(u64, u32)]) -> GroupStatus {
        GroupStatus {
            term: 5,
            is_leader,
            leader: Some(if is_leader { 1 } else { 2 }),
            applied: Position::default(),
            committed: 9,
            last: 9,
            base: Position::default(),
            members: ConfState { voters: vec![1, 2, 3], ..ConfState::default() },
            copies: vec![(1, 9, true), (2, 9, true), (3, 9, true)],
            are_members_settled: is_leader,
            lost_in: None,
            marks: marks.to_vec(),
        }
    }

    fn told(member: u64, decides: bool, marks: &[(u64, u32)]) -> (u64, CopyReport) {
        (member, CopyReport { decides, marks: marks.to_vec(), ..CopyReport::default() })
    }

    #[test]
    fn the_copy_that_is_alone_with_its_checksum_stops() {
        let mine = [(256, 7), (300, 8)];
        let kind = |own: &GroupStatus, others: &[(u64, CopyReport)]| judge(own, others).map(|(kind, _)| kind);
        let follower = own(false, &mine);
        assert_eq!(kind(&follower, &[]), None);
        assert_eq!(kind(&follower, &[told(2, true, &[(256, 7), (310, 1)]), told(3, false, &[(300, 8)])]), None);
        assert_eq!(kind(&follower, &[told(2, true, &[(257, 1)])]), None, "nothing to compare");
        let both = [told(2, true, &[(256, 7), (300, 9)]), told(3, false, &[(300, 9)])];
        assert_eq!(kind(&follower, &both), Some(FailureKind::Damaged));
        assert_eq!(kind(&follower, &both[..1]), Some(FailureKind::Other), "nobody can tell which one is right");
        assert_eq!(kind(&follower, &[both[0].clone(), told(3, false, &[(300, 8)])]), None, "it is the other one");
        assert_eq!(kind(&follower, &both[1..]), None, "who decides has not told");
        let leader = own(true, &mine);
        let followers = [told(2, false, &[(300, 9)]), told(3, false, &[(300, 9)])];
        assert_eq!(kind(&leader, &followers), Some(FailureKind::Damaged));
        assert_eq!(kind(&leader, &followers[..1]), None, "the other one stops");
    }

    #[test]
    fn appends_are_refused_when_too_few_have_space() {
        let full = |member| (member, CopyReport { is_full: true, ..CopyReport::default() });
        let leader = own(true, &[]);
        assert_eq!(no_space(1, &leader, &[]), None);
        assert_eq!(no_space(1, &leader, &[full(2)]), None, "two have some");
        assert!(no_space(1, &leader, &[full(2), full(3)]).expect("refused").contains("2 of 3"));
        let alone = GroupStatus { copies: vec![(1, 9, true), (2, 9, true), (3, 9, false)], ..leader };
        assert!(no_space(1, &alone, &[full(2)]).is_some(), "the third one is away");
        assert_eq!(no_space(1, &alone, &[]), None, "that is no want of space");
    }

    #[test]
    fn what_was_told_is_found_by_group() {
        let reports = Reports::default();
        let copy = |group: &str| CopyReport { group: group.to_owned(), ..CopyReport::default() };
        reports.take(Report { member: 2, copies: vec![copy("s1"), copy("s2")] });
        reports.take(Report { member: 2, copies: vec![CopyReport { is_full: true, ..copy("s1") }] });
        let of = reports.of("s1");
        assert_eq!((of.len(), of[0].0, of[0].1.is_full), (1, 2, true));
        assert!(reports.of("s3").is_empty());
    }
}
