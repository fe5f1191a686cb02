//! What each step of a migration does to a record, and what it refuses.

use std::collections::BTreeSet;

use super::*;
use crate::store::Migrations;

fn set(slots: &str) -> SlotRanges {
    slots.parse().expect("slots")
}

fn job(number: u64) -> String {
    format!("{number:040x}")
}

fn moving(number: u64, slots: &str, shard: &str) -> SlotMove {
    SlotMove { job: job(number), slots: set(slots), shard: shard.to_owned() }
}

/// A shard with these slots in config epoch 7, set in epoch 3.
fn record(slots: &str) -> ClusterSlots {
    ClusterSlots { config_epoch: 7, slots: set(slots), epoch: 3, ..ClusterSlots::default() }
}

fn text<T: std::fmt::Debug>(refused: Result<T, Refusal>) -> String {
    refused.expect_err("refused").to_string()
}

fn leads(epoch: u64) -> bool {
    epoch == 3
}

#[test]
fn slots_go_from_one_record_to_the_other() {
    let (mut source, mut target) = (record("0-99"), ClusterSlots { config_epoch: 5, ..record("200") });
    grant(&mut source, "s", 3, moving(1, "10-19", "t")).expect("granted");
    import(&mut target, "t", moving(1, "10-19", "s")).expect("an intent");
    let claimed = claim(&mut source, &job(1), "t", leads).expect("claimed");
    assert_eq!(claimed, Claimed { config_epoch: 7, slots: set("10-19") });
    assert_eq!((source.slots.clone(), source.migrations.given.clone()), (set("0-9,20-99"), set("10-19")));
    settle(&mut target, &job(1), Outcome::Taken, 8).expect("settled");
    assert_eq!((target.slots.clone(), target.config_epoch), (set("10-19,200"), 8));
    let after = Migrations { ended: vec![job(1)], ..Migrations::default() };
    assert_eq!(target.migrations, after);
    assert!(text(import(&mut target, "t", moving(1, "10-19", "s"))).contains("has ended"));
    // Each again, as it is sent when an answer was lost.
    assert_eq!(claim(&mut source, &job(1), "t", leads), Ok(claimed));
    assert_eq!(settle(&mut target, &job(1), Outcome::Taken, 1), Ok(()));
    assert_eq!(abort(&mut source, &job(1), &set("10-19")), Aborted::Claimed);
    for _ in 0..2 {
        forget(&mut source, &job(1), "t");
        assert_eq!((source.migrations.moved.len(), source.migrations.given.clone()), (0, set("10-19")));
        // The claim is told by what was given, as the job is forgotten.
        assert_eq!(abort(&mut source, &job(1), &set("10-19")), Aborted::Claimed);
    }
    // Back again.
    grant(&mut target, "t", 4, moving(2, "10-19", "s")).expect("granted");
    import(&mut source, "s", moving(2, "10-19", "t")).expect("an intent");
    claim(&mut target, &job(2), "s", |epoch| epoch == 4).expect("claimed");
    settle(&mut source, &job(2), Outcome::Taken, 24).expect("settled");
    assert_eq!((source.slots, source.migrations.given), (set("0-99"), set("")));
    assert_eq!((target.slots, target.migrations.given), (set("200"), set("10-19")));
}

#[test]
fn a_grant_names_slots_that_the_shard_has_and_there_is_one_at_a_time() {
    let mut source = record("0-99");
    assert!(text(grant(&mut source, "s", 3, moving(1, "99-100", "t"))).contains("slots '100' are not this shard's"));
    assert!(text(grant(&mut source, "s", 3, moving(1, "0", "s"))).contains("to itself"));
    assert_eq!(source, record("0-99"));
    for _ in 0..2 {
        assert_eq!(grant(&mut source, "s", 3, moving(1, "0", "t")), Ok(()));
    }
    for other in [moving(2, "5", "t"), moving(1, "5", "t"), moving(1, "0", "u")] {
        assert!(text(grant(&mut source, "s", 3, other)).contains("one at a time"));
    }
    // One of an earlier epoch is void, and its job with it.
    assert!(text(grant(&mut source, "s", 4, moving(1, "0", "t"))).contains("has ended"));
    assert_eq!(grant(&mut source, "s", 4, moving(2, "5", "t")), Ok(()));
    assert_eq!(
        (abort(&mut source, &job(2), &set("5")), abort(&mut source, &job(9), &set("5"))),
        (Aborted::Aborted, Aborted::Aborted)
    );
    for number in [1, 2, 9] {
        assert!(text(grant(&mut source, "s", 4, moving(number, "0", "t"))).contains("has ended"));
    }
    for number in 0..MAX_MOVED as u64 {
        source.migrations.moved.push(moving(100 + number, "0", "t"));
    }
    assert!(text(grant(&mut source, "s", 4, moving(3, "1", "t"))).contains("256 claims"));
    assert!(text(grant(&mut source, "s", 4, moving(100, "1", "t"))).contains("claimed already"));
}

#[test]
fn a_claim_needs_the_grant_and_its_epoch_and_what_it_is_refused_it_is_refused_for_good() {
    let mut source = record("0-99");
    let refused = |source: &mut ClusterSlots, number, target, leads: fn(u64) -> bool| {
        assert_eq!(claim(source, &job(number), target, leads).expect_err("refused").code, Code::NoGrant);
    };
    refused(&mut source, 1, "t", leads);
    assert_eq!(source, record("0-99"), "a job that nobody granted leaves nothing behind");
    grant(&mut source, "s", 3, moving(1, "0", "t")).expect("granted");
    let granted = source.clone();
    refused(&mut source, 1, "u", leads);
    refused(&mut source, 2, "t", leads);
    assert_eq!(source, granted);
    refused(&mut source, 1, "t", |_| false);
    assert!(source.migrations.grant.is_none());
    refused(&mut source, 1, "t", leads);
    assert!(text(grant(&mut source, "s", 3, moving(1, "0", "t"))).contains("has ended"));
    // Aborted first.
    grant(&mut source, "s", 3, moving(2, "0", "t")).expect("granted");
    assert_eq!(abort(&mut source, &job(2), &set("0")), Aborted::Aborted);
    refused(&mut source, 2, "t", leads);
    assert_eq!(source.slots, set("0-99"));
}

#[test]
fn an_import_is_of_slots_that_are_nobody_elses_here() {
    let mut target = record("0-99");
    assert!(text(import(&mut target, "t", moving(1, "99-100", "s"))).contains("this shard's already"));
    assert!(text(import(&mut target, "t", moving(1, "200", "t"))).contains("of itself"));
    for _ in 0..2 {
        assert_eq!(import(&mut target, "t", moving(1, "200-210", "s")), Ok(()));
    }
    for other in [moving(2, "210-220", "s"), moving(1, "300", "s"), moving(1, "200-210", "u")] {
        assert!(text(import(&mut target, "t", other)).contains("settle that first"));
    }
    assert_eq!(target.migrations.imports.len(), 1);
    assert_eq!(settle(&mut target, &job(1), Outcome::Void, 0), Ok(()));
    assert_eq!((target.slots.clone(), target.migrations.imports.len()), (set("0-99"), 0));
    // Also before the import comes.
    assert_eq!(settle(&mut target, &job(2), Outcome::Void, 0), Ok(()));
    for late in [1, 2] {
        assert!(text(import(&mut target, "t", moving(late, "200-210", "s"))).contains("has ended"));
    }
    for number in 10..10 + MAX_IMPORTS as u64 {
        import(&mut target, "t", moving(number, &(1000 + 2 * number).to_string(), "s")).expect("an intent");
    }
    assert!(text(import(&mut target, "t", moving(99, "5000", "s"))).contains("64 imports"));
}

#[test]
fn slots_are_taken_in_no_lower_config_epoch() {
    let mut target = record("0");
    import(&mut target, "t", moving(1, "5", "s")).expect("an intent");
    let open = target.clone();
    assert!(text(settle(&mut target, &job(1), Outcome::Taken, 6)).contains("config epoch 6 is lower than 7"));
    assert_eq!(target, open);
    assert_eq!(settle(&mut target, &job(1), Outcome::Taken, 7), Ok(()));
    assert_eq!(settle(&mut target, &job(2), Outcome::Taken, 9), Ok(()));
    assert_eq!((target.slots, target.config_epoch), (set("0,5"), 7));
}

#[test]
fn slots_that_have_come_back_are_not_claimed_by_the_job_that_took_them() {
    let mut source = record("0-99");
    grant(&mut source, "s", 3, moving(1, "0-9", "t")).expect("granted");
    claim(&mut source, &job(1), "t", leads).expect("claimed");
    import(&mut source, "s", moving(2, "5", "t")).expect("an intent");
    settle(&mut source, &job(2), Outcome::Taken, 30).expect("settled");
    assert_eq!((source.slots.clone(), source.migrations.given.clone()), (set("5,10-99"), set("0-4,6-9")));
    assert_eq!(claim(&mut source, &job(1), "t", leads).expect_err("late").code, Code::NoGrant);
    assert!(text(grant(&mut source, "s", 3, moving(1, "5", "t"))).contains("has ended"));
}

#[test]
fn only_so_many_jobs_are_remembered_and_each_once() {
    let mut source = record("0-99");
    for number in 0..2 * MAX_ENDED as u64 {
        for _ in 0..2 {
            abort(&mut source, &job(number), &set("0"));
        }
    }
    let ended = &source.migrations.ended;
    assert_eq!((ended.len(), ended.first(), ended.last()), (MAX_ENDED, Some(&job(256)), Some(&job(511))));
}

/// A shard, and the epoch that leads it.
struct Side {
    name: &'static str,
    record: ClusterSlots,
    epoch: u64,
}

/// Two shards, and what was ever sent to them: all of it may come once more.
struct Sides {
    sides: [Side; 2],
    next_job: u64,
    grants: Vec<(usize, u64, SlotMove)>,
    imports: Vec<(usize, u64, SlotMove)>,
    /// Jobs of which somebody was told that they are not granted, and never will be.
    refused: BTreeSet<String>,
}

impl Sides {
    fn new() -> Self {
        let sides = [("s", "0-3"), ("t", "4-7")].map(|(name, slots)| Side { name, record: record(slots), epoch: 3 });
        Sides { sides, next_job: 1, grants: Vec::new(), imports: Vec::new(), refused: BTreeSet::new() }
    }

    /// The leader of the shard at `at` grants one of its slots. Whether it is stored or not, the target hears of no grant that is not.
    fn grant(&mut self, at: usize, slot: u16) {
        let asked = SlotMove {
            job: job(self.next_job),
            slots: SlotRanges::of([slot]),
            shard: self.sides[1 - at].name.to_owned(),
        };
        self.next_job += 1;
        let side = &mut self.sides[at];
        self.grants.push((at, side.epoch, asked.clone()));
        if grant(&mut side.record, side.name, side.epoch, asked.clone()).is_ok() {
            let import_of = SlotMove { shard: side.name.to_owned(), ..asked };
            self.imports.push((1 - at, self.sides[1 - at].epoch, import_of));
        }
    }

    fn claim(&mut self, by: usize, job: &str) -> bool {
        let target = self.sides[by].name;
        let source = &mut self.sides[1 - by];
        let epoch = source.epoch;
        let is_granted = claim(&mut source.record, job, target, |asked| asked == epoch).is_ok();
        if is_granted {
            assert!(!self.refused.contains(job), "granted after it was refused for good: {job}");
        } else {
            self.refused.insert(job.to_owned());
        }
        is_granted
    }

    fn step(&mut self, step: u8, what: u8) {
        let at = usize::from(what & 1);
        let chosen = |sent: &[(usize, u64, SlotMove)]| {
            (!sent.is_empty()).then(|| sent[sent.len() - 1 - usize::from(what >> 1) % sent.len().min(4)].clone())
        };
        match step % 8 {
            0 => self.grant(at, u16::from(what >> 1 & 7)),
            // A copy of a grant, with the epoch with which it was sent.
            1 => {
                let Some((at, epoch, asked)) = chosen(&self.grants) else { return };
                let side = &mut self.sides[at];
                if side.epoch == epoch {
                    let _ = grant(&mut side.record, side.name, epoch, asked);
                }
            }
            2 => {
                let Some((at, epoch, asked)) = chosen(&self.grants) else { return };
                let side = &mut self.sides[at];
                let is_aborted =
                    side.epoch == epoch && abort(&mut side.record, &asked.job, &asked.slots) == Aborted::Aborted;
                if is_aborted {
                    self.refused.insert(asked.job);
                }
            }
            // An import, or a copy of one.
            3 => {
                let Some((at, epoch, asked)) = chosen(&self.imports) else { return };
                let side = &mut self.sides[at];
                if side.epoch == epoch {
                    let _ = import(&mut side.record, side.name, asked);
                }
            }
            // As a leader does with each import. It may die after any of these.
            4 => {
                let Some(open) = self.sides[at].record.migrations.imports.first().cloned() else { return };
                let outcome = if self.claim(at, &open.job) { Outcome::Taken } else { Outcome::Void };
                if what & 2 != 0 {
                    let config_epoch = self.sides.iter().map(|side| side.record.config_epoch).max().unwrap_or(0) + 1;
                    settle(&mut self.sides[at].record, &open.job, outcome, config_epoch).expect("settled");
                    if what & 4 != 0 && outcome == Outcome::Taken {
                        forget(&mut self.sides[1 - at].record, &open.job, self.sides[at].name);
                    }
                }
            }
            // A copy of a claim: none was sent before the import was stored.
            5 => {
                let Some((at, _, asked)) = chosen(&self.imports) else { return };
                let Migrations { imports, ended, .. } = &self.sides[at].record.migrations;
                if imports.contains(&asked) || ended.contains(&asked.job) {
                    self.claim(at, &asked.job);
                }
            }
            // The next leader serves whatever is not claimed.
            6 => {
                let side = &mut self.sides[at];
                side.epoch += 1;
                self.refused.extend(side.record.migrations.grant.iter().map(|grant| grant.moving.job.clone()));
            }
            // A leader sets what it has, or had before it heard of a claim.
            _ => {
                let side = &mut self.sides[at];
                let (slots, given) = (side.record.slots.clone(), side.record.migrations.given.clone());
                let is_late = what & 2 != 0;
                let slots = if is_late { slots.union(&given) } else { slots };
                let next = ClusterSlots { epoch: side.epoch, slots, ..side.record.clone() };
                let follows = super::super::check_follows(&side.record, &next);
                assert!(is_late || follows.is_ok(), "{follows:?}");
                if follows.is_ok() {
                    side.record = next;
                }
            }
        }
    }

    fn check(&self) {
        let [first, second] = &self.sides;
        for slot in 0..8 {
            let owners = self.sides.iter().filter(|side| side.record.slots.contains(slot)).count();
            let claims = claims_of(slot, first, second) + claims_of(slot, second, first);
            assert_eq!(owners + claims, 1, "slot {slot}: {:?} {:?}", first.record, second.record);
        }
        for side in &self.sides {
            let Migrations { given, imports, .. } = &side.record.migrations;
            assert!(!given.overlaps(&side.record.slots), "{:?}", side.record);
            assert!(imports.iter().all(|import| !import.slots.overlaps(&side.record.slots)), "{:?}", side.record);
        }
    }
}

/// How many imports of that slot, which `target` has not settled, have claimed it of `source`.
fn claims_of(slot: u16, source: &Side, target: &Side) -> usize {
    let is_open = |moved: &&SlotMove| target.record.migrations.imports.iter().any(|import| import.job == moved.job);
    source.record.migrations.moved.iter().filter(|moved| moved.slots.contains(slot)).filter(is_open).count()
}

#[test]
fn whatever_comes_in_whatever_order_each_slot_has_one_owner() {
    bolero::check!().with_type::<Vec<(u8, u8)>>().for_each(|steps| play(steps));
}

fn play(steps: &[(u8, u8)]) {
    let mut sides = Sides::new();
    for (step, what) in steps {
        sides.step(*step, *what);
        sides.check();
    }
}

/// Without any of the rules some order breaks what is promised. With `--features broken-rules`.
#[cfg(feature = "broken-rules")]
#[test]
fn each_rule_is_needed() {
    use super::super::super::rule_switches::break_rule;

    const SEEDS: u64 = 20_000;
    let is_broken = |seed: u64| {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        let steps: Vec<(u8, u8)> = (0..80).map(|_| (next(), next())).collect();
        std::panic::catch_unwind(|| play(&steps)).is_err()
    };
    assert_eq!((1..=SEEDS / 20).find(|seed| is_broken(*seed)), None);
    for rule in [Rule::ClaimsInEpoch, Rule::EndsJobs, Rule::KeepsGiven] {
        break_rule(Some(rule));
        let shown_by = (1..=SEEDS).find(|seed| is_broken(*seed));
        break_rule(None);
        println!("{rule:?}: seed {shown_by:?}");
        assert!(shown_by.is_some(), "{rule:?} is not needed");
    }
}
