//! What is done to the shards as a cluster: it is made, slots are moved, and all nodes are to agree in the end.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::node::{Node, HOST};
use crate::ports::RoundPorts;
use crate::shard::Shard;
use crate::system::System;

/// How many slots there are.
pub const SLOTS: u16 = 16384;
const POLL: Duration = Duration::from_millis(50);
/// How often slots move of which one is in use.
const IN_USE: f64 = 0.75;
/// Tags that are tried until one is found for each shard.
const MOST_TAGS: usize = 1000;

/// Makes new nodes a cluster in which each shard has an equal part of the slots.
///
/// # Errors
/// It takes too long, or a node refuses.
pub fn make(system: &mut System, ports: RoundPorts, timeout: Duration) -> Result<()> {
    for shard in &mut system.shards {
        shard.wait_until_led(timeout)?;
    }
    let nodes: Vec<&Node> = system.shards.iter().flat_map(|shard| &shard.nodes).collect();
    for at in 1..nodes.len() {
        let address = [HOST.to_owned(), ports.client(at).to_string(), ports.bus_link(at).to_string()];
        nodes[0].command("CLUSTER", &["MEET", &address[0], &address[1], &address[2]])?;
    }
    for (number, shard) in system.shards.iter().enumerate() {
        let (first, last) = part(number, system.shards.len());
        leader(shard)?.command("CLUSTER", &["ADDSLOTSRANGE", &first.to_string(), &last.to_string()])?;
    }
    Ok(())
}

/// The first and the last of the slots that a shard has in the beginning.
fn part(shard: usize, shards: usize) -> (u16, u16) {
    let first = |shard: usize| (usize::from(SLOTS) * shard / shards) as u16;
    (first(shard), first(shard + 1) - 1)
}

/// For each shard a tag whose slot it has in the beginning.
///
/// # Errors
/// A node does not answer.
pub fn tags(system: &System) -> Result<Vec<String>> {
    let count = system.shards.len();
    let mut found: Vec<Option<String>> = vec![None; count];
    let leader = leader(&system.shards[0])?;
    for tag in (0..MOST_TAGS).map(|number| number.to_string()) {
        let slot = slot_of(leader, &tag)?;
        let has_it = |&shard: &usize| slot <= part(shard, count).1;
        let shard = (0..count).find(has_it).context("a slot of nobody")?;
        found[shard].get_or_insert(tag);
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found.into_iter().collect::<Option<_>>().context("a shard has no tag")
}

/// Asks for some slots of a shard to move to another one, most often with a slot of one of those tags. It may not come about: something may be
/// broken, or the shard may have none. Returns what was asked for, and what was answered.
pub fn migrate(system: &System, from: usize, to: usize, tags: &[String], seed: u64) -> String {
    let mut random = StdRng::seed_from_u64(seed);
    let mut ask = || -> Result<String> {
        let (source, target) = (leader(&system.shards[from])?, leader(&system.shards[to])?);
        let ranges = own_slots(source)?;
        ensure!(!ranges.is_empty(), "it has no slots");
        let mut in_use = Vec::new();
        for tag in tags {
            let slot = slot_of(source, tag)?;
            in_use.extend(
                ranges.iter().find(|(first, last)| (*first..=*last).contains(&slot)).map(|range| (slot, *range)),
            );
        }
        let (slot, (first, last)) = match in_use.choose(&mut random) {
            Some(found) if random.random_bool(IN_USE) => *found,
            _ => {
                let range = ranges[random.random_range(0..ranges.len())];
                (random.random_range(range.0..=range.1), range)
            }
        };
        let (start, end) = (random.random_range(first..=slot), random.random_range(slot..=last));
        let target: String = redis::from_redis_value(target.command("CLUSTER", &["MYID"])?)?;
        let words = ["MIGRATESLOTS", "SLOTSRANGE", &start.to_string(), &end.to_string(), "NODE", &target];
        let answer = source.command("CLUSTER", &words);
        Ok(format!("{} was asked to move slots {start} to {end}, and answered {answer:?}", source.name))
    };
    ask().unwrap_or_else(|error| format!("no slots were asked to move: {error:#}"))
}

/// Waits until all nodes give to the leader of each shard what its log has stored, and each slot to one.
///
/// # Errors
/// It takes too long since then.
pub fn wait_until_settled(system: &mut System, since: Instant, timeout: Duration) -> Result<()> {
    loop {
        system.check_alive()?;
        match trouble(system) {
            Ok(()) => return Ok(()),
            Err(trouble) if since.elapsed() > timeout => {
                return Err(trouble.context(format!("after {timeout:?} without faults the cluster is not settled")))
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

fn trouble(system: &System) -> Result<()> {
    let mut owned = 0;
    for shard in &system.shards {
        let leader = leader(shard)?;
        let port = leader.client_url.rsplit(':').next().context("a port")?;
        let (_, status) = system.services.decision(&shard.name).context("no service decides")?;
        let stored = status.get("slots").context("no slots are told")?;
        let config_epoch = status.get("config_epoch").context("no config epoch is told")?;
        owned += parse_ranges(stored.split(',')).iter().map(|(first, last)| last - first + 1).sum::<u16>();
        for node in system.shards.iter().flat_map(|shard| &shard.nodes) {
            let view: String = redis::from_redis_value(node.command("CLUSTER", &["NODES"])?)?;
            let lines = view.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let is_of = |line: &Vec<&str>| {
                line.len() > 7 && line[1].split('@').next().is_some_and(|to| to.ends_with(&format!(":{port}")))
            };
            let line = lines
                .into_iter()
                .find(is_of)
                .with_context(|| format!("{} does not know {}", node.name, leader.name))?;
            let slots: Vec<&str> = line[8..].iter().copied().filter(|word| !word.starts_with('[')).collect();
            let flags: Vec<&str> = line[2].split(',').collect();
            let is_known = flags.contains(&"master") && !flags.contains(&"fail") && !flags.contains(&"fail?");
            if !is_known || line[6] != config_epoch || slots.join(",") != *stored {
                bail!(
                    "{} leads {}, which has {stored} in config epoch {config_epoch}; {} has {line:?}",
                    leader.name,
                    shard.name,
                    node.name
                );
            }
        }
    }
    ensure!(owned == SLOTS, "the shards have {owned} slots");
    Ok(())
}

fn slot_of(node: &Node, tag: &str) -> Result<u16> {
    Ok(redis::from_redis_value(node.command("CLUSTER", &["KEYSLOT", tag])?)?)
}

fn leader(shard: &Shard) -> Result<&Node> {
    let leader = shard.leader().with_context(|| format!("nobody leads {}", shard.name))?;
    Ok(&shard.nodes[leader])
}

/// The slots that a node calls its own: first and last of each range.
fn own_slots(node: &Node) -> Result<Vec<(u16, u16)>> {
    let view: String = redis::from_redis_value(node.command("CLUSTER", &["NODES"])?)?;
    let myself = view.lines().find(|line| line.contains("myself")).context("a node that knows itself")?;
    Ok(parse_ranges(myself.split(' ').skip(8)))
}

/// Reads `first-last` or `slot`, and passes over what moves.
fn parse_ranges<'a>(words: impl Iterator<Item = &'a str>) -> Vec<(u16, u16)> {
    let range = |word: &str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    words.filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_is_of_one_shard_in_the_beginning() {
        for shards in 2..=4 {
            let parts: Vec<_> = (0..shards).map(|shard| part(shard, shards)).collect();
            assert_eq!((parts[0].0, parts[shards - 1].1), (0, SLOTS - 1));
            assert!(parts.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{parts:?}");
        }
    }

    #[test]
    fn ranges_are_read_and_what_moves_is_not() {
        let words = "0-5 7 [9->-a1] 100-100";
        assert_eq!(parse_ranges(words.split(' ')), [(0, 5), (7, 7), (100, 100)]);
    }
}
