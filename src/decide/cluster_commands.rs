//! What becomes of a user's CLUSTER command on a node whose log decides over its shard.

use durability_protocol::{SlotRanges, SLOT_COUNT};

/// What becomes of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server runs it, whatever this node is.
    Runs,
    /// It is about keys: the server runs it where it runs such commands.
    IsAboutKeys,
    /// It asks for this node to lead, whatever way it names.
    FailOver,
    /// It gives these slots to this node. The log stores that first. None: they are not slots, which the server says.
    AddSlots(Option<Vec<u16>>),
    /// It has this leader's slots move to another shard.
    MigrateSlots,
    /// A node says to another one how far a migration of slots is.
    SyncSlots,
    /// It is refused with that error.
    Refused(&'static str),
}

const RESET: &str = "ERR durability: CLUSTER RESET would take this node away from its log: stop the server, remove its nodes.conf and start it \
    again to make it a new node of the cluster";
const REPLICATE: &str = "ERR durability: a node follows the log of its shard (durability.shard), and becomes a replica of the node that leads \
    by itself: CLUSTER MEET is enough";
const DROPS_SLOTS: &str =
    "ERR durability: a shard gives up slots only to another one: CLUSTER MIGRATESLOTS SLOTSRANGE first last NODE id";
const MOVES_SLOTS: &str = "ERR durability: slots move with all their keys at once: CLUSTER MIGRATESLOTS SLOTSRANGE first last NODE id, on the node \
    that leads their shard";

/// Judges a CLUSTER command; `arguments` begins with the subcommand.
pub fn judge<'a>(mut arguments: impl Iterator<Item = &'a [u8]>) -> Verdict {
    let subcommand = arguments.next().unwrap_or_default().to_ascii_lowercase();
    match &subcommand[..] {
        b"failover" => Verdict::FailOver,
        b"addslots" => Verdict::AddSlots(arguments.map(slot).collect()),
        b"addslotsrange" => Verdict::AddSlots(ranges(arguments)),
        b"reset" => Verdict::Refused(RESET),
        b"replicate" => Verdict::Refused(REPLICATE),
        b"delslots" | b"delslotsrange" | b"flushslots" => Verdict::Refused(DROPS_SLOTS),
        b"setslot" => Verdict::Refused(MOVES_SLOTS),
        b"migrateslots" => Verdict::MigrateSlots,
        b"syncslots" => Verdict::SyncSlots,
        b"getkeysinslot" | b"countkeysinslot" | b"flushslot" => Verdict::IsAboutKeys,
        _ => Verdict::Runs,
    }
}

/// What follows `SYNCSLOTS ESTABLISH`: the migration, the id of the node that has the slots, and the slots. None if one of them is not there.
pub fn establish<'a>(arguments: impl Iterator<Item = &'a [u8]>) -> Option<(String, String, SlotRanges)> {
    let text = |argument: &[u8]| String::from_utf8_lossy(argument).into_owned();
    let mut arguments = arguments.peekable();
    let (mut job, mut source, mut slots) = (None, None, Vec::new());
    while let Some(word) = arguments.next() {
        match &word.to_ascii_lowercase()[..] {
            b"name" => job = arguments.next().map(text),
            b"source" => source = arguments.next().map(text),
            b"slotsrange" => {
                while let Some(first) = arguments.next_if(|first| slot(first).is_some()) {
                    slots.extend(slot(first)?..=slot(arguments.next()?)?);
                }
            }
            _ => return None,
        }
    }
    let slots = SlotRanges::of(slots);
    (!slots.is_empty()).then_some((job?, source?, slots))
}

fn slot(text: &[u8]) -> Option<u16> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|slot| *slot < SLOT_COUNT)
}

/// Slots of pairs of a first and a last one, inclusive.
fn ranges<'a>(mut bounds: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u16>> {
    let mut slots = Vec::new();
    while let Some(first) = bounds.next() {
        slots.extend(slot(first)?..=slot(bounds.next()?)?);
    }
    Some(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(command: &str) -> Verdict {
        judge(command.split(' ').map(str::as_bytes))
    }

    #[test]
    fn what_only_looks_or_meets_runs() {
        for command in ["NODES", "info", "MEET 127.0.0.1 7000", "SET-CONFIG-EPOCH 1", "FORGET id", "KEYSLOT FAILOVER"] {
            assert_eq!(judged(command), Verdict::Runs, "{command}");
        }
        for command in ["flushslot 1", "GETKEYSINSLOT 1 1", "COUNTKEYSINSLOT 1"] {
            assert_eq!(judged(command), Verdict::IsAboutKeys, "{command}");
        }
    }

    #[test]
    fn what_would_take_a_node_from_its_log_or_move_slots_is_refused() {
        let refused = [
            ("RESET HARD", "nodes.conf"),
            ("REPLICATE id", "CLUSTER MEET"),
            ("replicate no one", "CLUSTER MEET"),
            ("DELSLOTS 1", "MIGRATESLOTS"),
            ("DELSLOTSRANGE 1 2", "MIGRATESLOTS"),
            ("FLUSHSLOTS", "MIGRATESLOTS"),
            ("SETSLOT 1 MIGRATING id", "MIGRATESLOTS"),
        ];
        for (command, says) in refused {
            assert!(matches!(judged(command), Verdict::Refused(why) if why.contains(says)), "{command}");
        }
    }

    #[test]
    fn what_moves_slots_by_the_server_is_known() {
        assert_eq!(judged("MigrateSlots SLOTSRANGE 1 2 NODE id"), Verdict::MigrateSlots);
        assert_eq!(judged("SYNCSLOTS ACK"), Verdict::SyncSlots);
        assert_eq!(judged("CANCELSLOTMIGRATIONS"), Verdict::Runs);
        assert_eq!(judged("GETSLOTMIGRATIONS"), Verdict::Runs);
    }

    #[test]
    fn an_import_says_its_name_its_slots_and_their_source() {
        let read = |text: &str| establish(text.split(' ').map(str::as_bytes));
        let import = |slots: &str| Some(("j".to_owned(), "n".to_owned(), slots.parse().expect("slots")));
        assert_eq!(read("SOURCE n NAME j SLOTSRANGE 0 5 7 7"), import("0-5,7"));
        assert_eq!(read("slotsrange 1 2 name j source n"), import("1-2"));
        for wrong in
            ["SOURCE n NAME j", "SOURCE n SLOTSRANGE 1 2", "NAME j SLOTSRANGE 1 2", "SOURCE n NAME j SLOTSRANGE 1", ""]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn slots_that_are_added_are_told_one_by_one() {
        assert_eq!(judged("addslots 1 16383"), Verdict::AddSlots(Some(vec![1, 16383])));
        assert_eq!(judged("ADDSLOTSRANGE 1 3 7 7"), Verdict::AddSlots(Some(vec![1, 2, 3, 7])));
        for wrong in ["addslots 16384", "addslots x", "addslotsrange 1", "addslotsrange 1 16384"] {
            assert_eq!(judged(wrong), Verdict::AddSlots(None), "{wrong}");
        }
    }

    #[test]
    fn every_way_to_ask_for_a_failover_is_one() {
        for command in ["FAILOVER", "failover FORCE", "Failover TAKEOVER"] {
            assert_eq!(judged(command), Verdict::FailOver, "{command}");
        }
    }
}
