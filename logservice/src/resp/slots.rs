//! `LOG.SLOTS`: what a shard is in a Valkey cluster, and slots that move from one shard to another.

use bytes::Bytes;
use durability_protocol::{is_valid_cluster_node_id, is_valid_name, is_valid_slot_job, Refusal, SlotRanges};

use super::arguments::{number, text};
use super::reply::{self, failure, Reply};
use crate::shard::{Aborted, Outcome, Shard};
use crate::store::{ClusterSlots, SlotMove};

const USAGE: &str = "usage: LOG.SLOTS shard GET epoch | SET epoch config-epoch slots [cluster-node-id [sent]] | \
    GRANT epoch job slots target | ABORT epoch job slots | IMPORT epoch job slots source | CLAIM source job | \
    SETTLE epoch config-epoch job taken|void | FORGET source job";

/// A parsed `LOG.SLOTS`.
#[derive(Debug, PartialEq, Eq)]
pub enum SlotsCommand {
    /// What is stored? The leader of that epoch asks.
    Get {
        /// Its epoch.
        epoch: u64,
    },
    /// That is to be stored.
    Set(ClusterSlots),
    /// Another shard may claim slots of this one.
    Grant {
        /// The epoch whose leader says so.
        epoch: u64,
        /// The slots, and that shard.
        moving: SlotMove,
    },
    /// It may no more, if it has not.
    Abort {
        /// The epoch whose leader says so.
        epoch: u64,
        /// The migration.
        job: String,
        /// The slots.
        slots: SlotRanges,
    },
    /// The shard is about to claim slots of another one.
    Import {
        /// The epoch whose leader says so.
        epoch: u64,
        /// The slots, and that shard.
        moving: SlotMove,
    },
    /// The shard claims slots of another one.
    Claim(Claim),
    /// The shard has the answer to its claim.
    Settle {
        /// The epoch whose leader says so.
        epoch: u64,
        /// The config epoch of the shard's primary from now on.
        config_epoch: u64,
        /// The migration.
        job: String,
        /// Whether the slots are the shard's now.
        outcome: Outcome,
    },
    /// The shard has stored that it has what it claimed.
    Forget(Claim),
}

/// What a shard says to the record of another.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    /// The shard that claims.
    pub target: String,
    /// The shard whose slots it claims, which decides.
    pub source: String,
    /// The migration.
    pub job: String,
}

impl SlotsCommand {
    /// Reads the arguments.
    ///
    /// # Errors
    /// They have not the form that is asked for.
    pub fn parse(arguments: &[Bytes]) -> Result<Self, Refusal> {
        let [_, named, subcommand, rest @ ..] = arguments else { return Err(failure(USAGE)) };
        let name = subcommand.to_ascii_uppercase();
        Ok(match (&name[..], rest) {
            (b"GET", [epoch]) => SlotsCommand::Get { epoch: number(epoch, "epoch")? },
            (b"SET", [epoch, config_epoch, set, optional @ ..]) if optional.len() <= 2 => {
                SlotsCommand::Set(ClusterSlots {
                    epoch: number(epoch, "epoch")?,
                    config_epoch: number(config_epoch, "config-epoch")?,
                    slots: slots(set)?,
                    cluster_node_id: optional.first().map(|id| cluster_node_id(id)).transpose()?.unwrap_or_default(),
                    sent: optional.get(1).map(|sent| number(sent, "sent")).transpose()?,
                    ..ClusterSlots::default()
                })
            }
            (b"GRANT", [epoch, job, set, target]) => {
                SlotsCommand::Grant { epoch: number(epoch, "epoch")?, moving: slot_move(job, set, target)? }
            }
            (b"ABORT", [epoch, aborted, set]) => {
                SlotsCommand::Abort { epoch: number(epoch, "epoch")?, job: job(aborted)?, slots: some_slots(set)? }
            }
            (b"IMPORT", [epoch, job, set, source]) => {
                SlotsCommand::Import { epoch: number(epoch, "epoch")?, moving: slot_move(job, set, source)? }
            }
            (b"CLAIM", [source, job]) => SlotsCommand::Claim(Claim::parse(named, source, job)?),
            (b"FORGET", [source, job]) => SlotsCommand::Forget(Claim::parse(named, source, job)?),
            (b"SETTLE", [epoch, config_epoch, settled, outcome]) => SlotsCommand::Settle {
                epoch: number(epoch, "epoch")?,
                config_epoch: number(config_epoch, "config-epoch")?,
                job: job(settled)?,
                outcome: match &outcome.to_ascii_lowercase()[..] {
                    b"taken" => Outcome::Taken,
                    b"void" => Outcome::Void,
                    _ => return Err(failure("the outcome of an import is taken or void")),
                },
            },
            _ => return Err(failure(USAGE)),
        })
    }

    /// The shard whose record decides, if that is not the one that the command names first.
    pub fn source(&self) -> Option<&str> {
        match self {
            SlotsCommand::Claim(claim) | SlotsCommand::Forget(claim) => Some(&claim.source),
            _ => None,
        }
    }

    /// Does it to `shard`, which is the [`SlotsCommand::source`] if there is one, and answers when that is durable.
    ///
    /// # Errors
    /// Those of the function of [`Shard`] that does it.
    pub async fn run(self, shard: &Shard) -> Result<Reply, Refusal> {
        match self {
            SlotsCommand::Get { epoch } => shard.cluster_slots(epoch).await.map(|stored| answer(&stored)),
            SlotsCommand::Set(next) => shard.set_cluster_slots(next).await.map(|()| reply::ok()),
            SlotsCommand::Grant { epoch, moving } => shard.grant_slots(epoch, moving).await.map(|()| reply::ok()),
            SlotsCommand::Abort { epoch, job, slots } => {
                let aborted = shard.abort_grant(epoch, &job, &slots).await?;
                Ok(reply::simple(match aborted {
                    Aborted::Aborted => "aborted",
                    Aborted::Claimed => "claimed",
                }))
            }
            SlotsCommand::Import { epoch, moving } => shard.import_slots(epoch, moving).await.map(|()| reply::ok()),
            SlotsCommand::Claim(Claim { target, job, .. }) => {
                let claimed = shard.claim_slots(&job, &target).await?;
                let fields = [("config_epoch", claimed.config_epoch.to_string()), ("slots", claimed.slots.to_string())];
                Ok(reply::array(fields.into_iter().flat_map(|(name, value)| named(name, value)).collect()))
            }
            SlotsCommand::Settle { epoch, config_epoch, job, outcome } => {
                shard.settle_import(epoch, config_epoch, &job, outcome).await.map(|()| reply::ok())
            }
            SlotsCommand::Forget(Claim { target, job, .. }) => {
                shard.forget_moved(&job, &target).await.map(|()| reply::ok())
            }
        }
    }
}

impl Claim {
    fn parse(target: &[u8], source: &[u8], claimed: &[u8]) -> Result<Self, Refusal> {
        Ok(Claim { target: shard_name(target)?, source: shard_name(source)?, job: job(claimed)? })
    }
}

/// Names and values.
fn answer(stored: &ClusterSlots) -> Reply {
    let ClusterSlots { config_epoch, slots, cluster_node_id, migrations, .. } = stored;
    let words = |moving: &SlotMove| format!("{} {} {}", moving.job, moving.slots, moving.shard);
    let grant =
        migrations.grant.as_ref().map_or_else(String::new, |grant| format!("{} {}", words(&grant.moving), grant.epoch));
    let imports: Vec<_> = migrations.imports.iter().map(words).collect();
    let mut items: Vec<_> = named("config_epoch", config_epoch.to_string()).into();
    items.extend(named("slots", slots.to_string()));
    items.extend(named("cluster_node_id", cluster_node_id.clone()));
    items.extend(named("given", migrations.given.to_string()));
    items.extend(named("grant", grant));
    items.extend(named("imports", imports.join(";")));
    reply::array(items)
}

fn named(name: &'static str, value: String) -> [Reply; 2] {
    [reply::bulk(name), reply::bulk(value)]
}

/// Reads the id of a node in a cluster; empty if it is not told.
fn cluster_node_id(argument: &[u8]) -> Result<String, Refusal> {
    let id = text(argument)?;
    if id.is_empty() || is_valid_cluster_node_id(id) {
        return Ok(id.to_owned());
    }
    Err(failure("not a valid cluster-node-id: 40 lower-case hexadecimal digits, or empty"))
}

fn slots(argument: &[u8]) -> Result<SlotRanges, Refusal> {
    text(argument)?.parse().map_err(|error| failure(format!("slots: {error}")))
}

/// Slots that move: one at least.
fn some_slots(argument: &[u8]) -> Result<SlotRanges, Refusal> {
    let slots = slots(argument)?;
    match slots.is_empty() {
        true => Err(failure("slots: name one at least")),
        false => Ok(slots),
    }
}

fn job(argument: &[u8]) -> Result<String, Refusal> {
    let job = text(argument)?;
    match is_valid_slot_job(job) {
        true => Ok(job.to_owned()),
        false => Err(failure("not a valid job: 40 lower-case hexadecimal digits")),
    }
}

fn shard_name(argument: &[u8]) -> Result<String, Refusal> {
    let name = text(argument)?;
    match is_valid_name(name) {
        true => Ok(name.to_owned()),
        false => Err(failure("not a valid shard name")),
    }
}

fn slot_move(named: &[u8], moving: &[u8], shard: &[u8]) -> Result<SlotMove, Refusal> {
    Ok(SlotMove { job: job(named)?, slots: some_slots(moving)?, shard: shard_name(shard)? })
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
