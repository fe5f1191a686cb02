//! How `LOG.SLOTS` is read and answered.

use super::*;

const JOB: &str = "1111111111111111111111111111111111111111";
const ID: &str = "0123456789abcdef0123456789abcdef01234567";

fn parse(words: &[&str]) -> Result<SlotsCommand, String> {
    let command = ["LOG.SLOTS", "s1"].iter().chain(words).map(|word| Bytes::copy_from_slice(word.as_bytes()));
    SlotsCommand::parse(&command.collect::<Vec<_>>()).map_err(|refusal| refusal.to_string())
}

fn moving(shard: &str) -> SlotMove {
    SlotMove { job: JOB.to_owned(), slots: "0-5,7".parse().expect("slots"), shard: shard.to_owned() }
}

#[test]
fn what_a_leader_asks_and_sets_is_read() {
    assert_eq!(parse(&["get", "3"]), Ok(SlotsCommand::Get { epoch: 3 }));
    let set = |cluster_node_id: &str, sent| {
        let (slots, cluster_node_id) = ("0-5460,7000".parse().expect("slots"), cluster_node_id.to_owned());
        let stored =
            ClusterSlots { config_epoch: 9, slots, cluster_node_id, epoch: 3, sent, ..ClusterSlots::default() };
        Ok(SlotsCommand::Set(stored))
    };
    assert_eq!(parse(&["SET", "3", "9", "0-5460,7000"]), set("", None));
    assert_eq!(parse(&["set", "3", "9", "0-5460,7000", ID]), set(ID, None));
    assert_eq!(parse(&["SET", "3", "9", "0-5460,7000", ID, "7"]), set(ID, Some(7)));
    assert_eq!(parse(&["SET", "3", "9", "0-5460,7000", "", "7"]), set("", Some(7)));
    assert!(parse(&["SET", "3", "9", ""]).is_ok());
}

#[test]
fn the_steps_of_a_migration_are_read_and_two_of_them_are_decided_by_the_source() {
    let (job, slots) = (JOB.to_owned(), "0-5,7".parse().expect("slots"));
    let settle = |outcome| Ok(SlotsCommand::Settle { epoch: 3, config_epoch: 9, job: JOB.to_owned(), outcome });
    let claim = || Claim { target: "s1".to_owned(), source: "s2".to_owned(), job: JOB.to_owned() };
    for (words, expected, source) in [
        (&["GRANT", "3", JOB, "0-5,7", "s2"][..], Ok(SlotsCommand::Grant { epoch: 3, moving: moving("s2") }), None),
        (&["abort", "3", JOB, "0-5,7"], Ok(SlotsCommand::Abort { epoch: 3, job, slots }), None),
        (&["IMPORT", "3", JOB, "0-5,7", "s2"], Ok(SlotsCommand::Import { epoch: 3, moving: moving("s2") }), None),
        (&["settle", "3", "9", JOB, "taken"], settle(Outcome::Taken), None),
        (&["SETTLE", "3", "9", JOB, "VOID"], settle(Outcome::Void), None),
        (&["CLAIM", "s2", JOB], Ok(SlotsCommand::Claim(claim())), Some("s2")),
        (&["forget", "s2", JOB], Ok(SlotsCommand::Forget(claim())), Some("s2")),
    ] {
        let parsed = parse(words);
        assert_eq!(parsed.as_ref().ok().and_then(SlotsCommand::source), source, "{words:?}");
        assert_eq!(parsed, expected, "{words:?}");
    }
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
        (&["GRANT", "3", JOB, "0"], "usage"),
        (&["CLAIM", "s2"], "usage"),
        (&["CLAIM", "s2", JOB, "3"], "usage"),
        (&["GET", "x"], "epoch is not a number"),
        (&["SET", "3", "-1", "0"], "config-epoch is not a number"),
        (&["SET", "3", "9", "0-16384"], "slots: '0-16384' does not fit: give ascending ranges"),
        (&["SET", "3", "9", "0,1"], "slots: '1' does not fit"),
        (&["SET", "3", "9", "0", "abc"], "not a valid cluster-node-id: 40 lower-case"),
        (&["SET", "3", "9", "0", "", "x"], "sent is not a number"),
        (&["GRANT", "3", "job", "0", "s2"], "not a valid job: 40 lower-case"),
        (&["GRANT", "3", JOB, "", "s2"], "slots: name one at least"),
        (&["ABORT", "3", JOB, ""], "slots: name one at least"),
        (&["IMPORT", "3", JOB, "0", "a b"], "not a valid shard name"),
        (&["CLAIM", "", JOB], "not a valid shard name"),
        (&["SETTLE", "3", "9", JOB, "maybe"], "the outcome of an import is taken or void"),
    ] {
        let error = parse(words).expect_err("refused");
        assert!(error.contains(text), "{words:?}: {error}");
    }
}
