"""The judge passes what may happen, and finds what may not. Histories are made by hand: two clients write at an even pace, in
turn, from time 0 on, a value each 20 ms and client, acknowledged 5 ms after its invocation."""

import unittest

from history import Found, History, Operation, Record
from judge import ROUND_MS, Loss, judge
from violation import Violation

PACE_S = 0.01
ANSWER_S = 0.005
KILLED_S = 10.0
LIMIT_MS = 500.0
BASE = 7


def record(executed: int, kept: int, in_journal: bool = True) -> Record:
    """Two clients wrote `executed` values together, of which the first `kept` are there."""
    histories = [History(name, BASE, in_journal) for name in ("a", "b")]
    journal = []
    for number in range(executed):
        history = histories[number % 2]
        value = BASE + 1 + number // 2
        invoked_s = KILLED_S - (executed - number) * PACE_S
        position = number + 1 if in_journal else None
        history.operations.append(Operation(value, invoked_s, invoked_s + ANSWER_S, position))
        journal.append((history.name, value))
    places = {"a": [BASE + (kept + 1) // 2] * 2, "b": [BASE + kept // 2] * 2}
    return Record(histories, Found(journal[:kept] if in_journal else [], places), KILLED_S, LIMIT_MS, durable_until_s=0.0)


class Passes(unittest.TestCase):
    def test_nothing_is_missing(self):
        self.assertEqual(judge(record(20, 20)), Loss())

    def test_nothing_was_written(self):
        self.assertEqual(judge(record(0, 0)), Loss())

    def test_the_youngest_are_missing(self):
        for in_journal in (True, False):
            loss = judge(record(20, 12, in_journal))
            self.assertEqual(loss.count, 8)
            self.assertAlmostEqual(loss.age_ms, 80)
            self.assertAlmostEqual(loss.span_ms, 65)

    def test_everything_is_missing(self):
        self.assertEqual(judge(record(20, 0)).count, 20)

    def test_an_unanswered_write_is_there_or_not(self):
        for kept in (19, 20):
            life = record(20, kept)
            life.histories[1].operations[-1].acknowledged_s = None
            life.histories[1].operations[-1].position = None
            self.assertEqual(judge(life).count, 0)

    def test_a_write_that_ran_beside_a_missing_one_is_there(self):
        life = record(20, 19, in_journal=False)
        # The one before the last, of the other client: acknowledged late, and missing; the last is there.
        life.histories[0].operations[-1].acknowledged_s += PACE_S
        life.found.places = {"a": [BASE + 9], "b": [BASE + 10]}
        self.assertEqual(judge(life).count, 1)

    def test_an_old_loss_after_which_nothing_was_acknowledged(self):
        life = record(20, 10)
        life.killed_s += 60
        self.assertGreater(judge(life).age_ms, 60_000)


class Finds(unittest.TestCase):
    def assert_found(self, life: Record, what: str):
        with self.assertRaisesRegex(Violation, what):
            judge(life)

    def test_an_entry_is_missing_in_the_middle_of_the_journal(self):
        life = record(20, 20)
        del life.found.journal[8]
        self.assert_found(life, "a: the journal has 13 where 12 should be")

    def test_an_entry_is_doubled(self):
        life = record(20, 20)
        life.found.journal.append(life.found.journal[-1])
        self.assert_found(life, "b: the journal has 17 where 18 should be")

    def test_entries_of_two_clients_have_changed_places(self):
        life = record(20, 20)
        journal = life.found.journal
        journal[8], journal[9] = journal[9], journal[8]
        self.assert_found(life, "but not at that place")

    def test_a_client_lost_more_of_the_journal_than_the_other(self):
        life = record(20, 20)
        life.found.journal = [entry for entry in life.found.journal if entry != ("a", BASE + 10)]
        life.found.places["a"] = [BASE + 9] * 2
        self.assert_found(life, "'a', 17. was written at 19 of the journal and is missing, but 19 are there")

    def test_a_hole_across_keys(self):
        life = record(20, 20, in_journal=False)
        life.found.places["a"] = [BASE + 9] * 2
        self.assert_found(life, "a: 17 is missing, but b: 17, written 5.000 ms after its acknowledgement, is there")

    def test_a_surviving_write_that_was_never_answered_tells_of_a_hole_as_well(self):
        life = record(20, 20, in_journal=False)
        life.histories[1].operations[-1].acknowledged_s = None
        life.found.places["a"] = [BASE + 9] * 2
        self.assert_found(life, "a: 17 is missing, but b: 17")

    def test_half_of_a_write_is_there(self):
        life = record(20, 20)
        life.found.places["a"][1] -= 1
        self.assert_found(life, r"a: a part of a write is there: \[16, 17\]")

    def test_the_journal_has_a_write_that_its_own_keys_do_not_have(self):
        life = record(20, 20)
        life.found.places["a"] = [BASE + 9] * 2
        self.assert_found(life, r"a: a part of a write is there: \[16, 17\]")

    def test_what_a_restart_had_found_is_missing(self):
        life = record(0, 0, in_journal=False)
        life.found.places["a"] = [BASE - 1]
        self.assert_found(life, "a: 7 was there after the last restart, and now it is 6")

    def test_a_write_is_there_that_nobody_wrote(self):
        life = record(20, 20, in_journal=False)
        life.found.places["a"] = [BASE + 11]
        self.assert_found(life, "a: 18 is there, but only 17 was written")

    def test_a_loss_that_is_older_than_the_limit(self):
        newest = int((LIMIT_MS + ROUND_MS) / 1000 / PACE_S)
        self.assertGreater(judge(record(200, 200 - newest)).span_ms, LIMIT_MS)
        self.assert_found(record(200, 200 - newest - 2), "later writes were acknowledged; the limit is 500.0 ms")

    def test_a_loss_of_what_was_durable_by_the_lag_that_the_server_told(self):
        life = record(20, 12)
        life.durable_until_s = KILLED_S - 0.08
        self.assertEqual(judge(life).count, 8)
        life.durable_until_s = KILLED_S - 0.07
        self.assert_found(life, "it was durable for 5.000 ms")
