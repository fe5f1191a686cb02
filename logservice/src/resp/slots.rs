//! `LOG.SLOTS`: what a shard is in a Valkey cluster.

use bytes::Bytes;
use durability_protocol::{is_valid_cluster_node_id, Refusal};

use super::arguments::{number, text};
use super::reply::{self, failure, Reply};
use crate::shard::Shard;
use crate::store::ClusterSlots;

const USAGE: &str =
    "usage: LOG.SLOTS shard GET epoch, or LOG.SLOTS shard SET epoch config-epoch slots [cluster-node-id [sent]]";

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
}

impl SlotsCommand {
    /// Reads the arguments.
    ///
    /// # Errors
    /// They have not the form that is asked for.
    pub fn parse(arguments: &[Bytes]) -> Result<Self, Refusal> {
        let [_, _, subcommand, epoch, rest @ ..] = arguments else { return Err(failure(USAGE)) };
        let is = |name: &[u8]| subcommand.eq_ignore_ascii_case(name);
        match rest {
            [] if is(b"GET") => Ok(SlotsCommand::Get { epoch: number(epoch, "epoch")? }),
            [config_epoch, slots, optional @ ..] if is(b"SET") && optional.len() <= 2 => {
                Ok(SlotsCommand::Set(ClusterSlots {
                    epoch: number(epoch, "epoch")?,
                    config_epoch: number(config_epoch, "config-epoch")?,
                    slots: text(slots)?.parse().map_err(|error| failure(format!("slots: {error}")))?,
                    cluster_node_id: optional.first().map(|id| cluster_node_id(id)).transpose()?.unwrap_or_default(),
                    sent: optional.get(1).map(|sent| number(sent, "sent")).transpose()?,
                }))
            }
            _ => Err(failure(USAGE)),
        }
    }

    /// Does it, and answers when that is durable.
    ///
    /// # Errors
    /// Those of [`Shard::cluster_slots`] and [`Shard::set_cluster_slots`].
    pub async fn run(self, shard: &Shard) -> Result<Reply, Refusal> {
        match self {
            SlotsCommand::Get { epoch } => shard.cluster_slots(epoch).await.map(|stored| answer(&stored)),
            SlotsCommand::Set(next) => shard.set_cluster_slots(next).await.map(|()| reply::ok()),
        }
    }
}

/// Names and values.
fn answer(stored: &ClusterSlots) -> Reply {
    let ClusterSlots { config_epoch, slots, cluster_node_id, .. } = stored;
    let (config_epoch, slots) = (config_epoch.to_string(), slots.to_string());
    let fields = [("config_epoch", config_epoch), ("slots", slots), ("cluster_node_id", cluster_node_id.clone())];
    reply::array(fields.into_iter().flat_map(|(name, value)| [reply::bulk(name), reply::bulk(value)]).collect())
}

/// Reads the id of a node in a cluster; empty if it is not told.
fn cluster_node_id(argument: &[u8]) -> Result<String, Refusal> {
    let id = text(argument)?;
    if id.is_empty() || is_valid_cluster_node_id(id) {
        return Ok(id.to_owned());
    }
    Err(failure("not a valid cluster-node-id: 40 lower-case hexadecimal digits, or empty"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<SlotsCommand, String> {
        let command = ["LOG.SLOTS", "s1"].iter().chain(words).map(|word| Bytes::copy_from_slice(word.as_bytes()));
        SlotsCommand::parse(&command.collect::<Vec<_>>()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn both_forms_are_read() {
        assert_eq!(parse(&["get", "3"]), Ok(SlotsCommand::Get { epoch: 3 }));
        let id = "0123456789abcdef0123456789abcdef01234567";
        let set = |cluster_node_id: &str, sent| {
            let slots = "0-5460,7000".parse().expect("slots");
            let cluster_node_id = cluster_node_id.to_owned();
            Ok(SlotsCommand::Set(ClusterSlots { config_epoch: 9, slots, cluster_node_id, epoch: 3, sent }))
        };
        assert_eq!(parse(&["SET", "3", "9", "0-5460,7000"]), set("", None));
        assert_eq!(parse(&["set", "3", "9", "0-5460,7000", id]), set(id, None));
        assert_eq!(parse(&["SET", "3", "9", "0-5460,7000", id, "7"]), set(id, Some(7)));
        assert_eq!(parse(&["SET", "3", "9", "0-5460,7000", "", "7"]), set("", Some(7)));
        assert!(parse(&["SET", "3", "9", ""]).is_ok());
    }

    #[test]
    fn anything_else_is_refused_with_what_to_do() {
        for (words, text) in [
            (&[][..], "usage"),
            (&["GET"], "usage"),
            (&["GET", "3", "4"], "usage"),
            (&["SET", "3", "9"], "usage"),
            (&["SET", "3", "9", "0", "", "7", "8"], "usage"),
            (&["DEL", "3"], "usage"),
            (&["GET", "x"], "epoch is not a number"),
            (&["SET", "3", "-1", "0"], "config-epoch is not a number"),
            (&["SET", "3", "9", "0-16384"], "slots: '0-16384' does not fit: give ascending ranges"),
            (&["SET", "3", "9", "0,1"], "slots: '1' does not fit"),
            (&["SET", "3", "9", "0", "abc"], "not a valid cluster-node-id: 40 lower-case"),
            (&["SET", "3", "9", "0", "", "x"], "sent is not a number"),
        ] {
            let error = parse(words).expect_err("refused");
            assert!(error.contains(text), "{words:?}: {error}");
        }
    }
}
