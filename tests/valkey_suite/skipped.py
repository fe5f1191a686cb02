"""The files that name the tests that cannot pass, each with its reason: `skip`, and `skip-cluster` for the cluster suite."""

import re


class Skipped:
    """Lines are names of tests, or /patterns; a ~ before one has it run, and it may fail. `[unit]` begins those of that unit alone, and `*` is all of
    it."""

    def __init__(self, file):
        self.listed = []
        unit = None
        for line in file.read_text(encoding="utf-8").splitlines():
            if heading := re.fullmatch(r"\[(unit/\S+|integration/\S+)\]", line):
                unit = heading[1]
            elif line.strip() and not line.startswith("#"):
                self.listed.append((unit, line))

    def is_whole(self, unit):
        return (unit, "*") in self.listed

    def of(self, unit):
        """Of a unit: the tests that are not run, and patterns of those that are run and may fail."""
        lines = [line for of, line in self.listed if of in (None, unit)]
        not_run = [line for line in lines if not line.startswith("~")]
        may_fail = [line[1:].strip() for line in lines if line.startswith("~")]
        return not_run, [line[1:] if line.startswith("/") else f"^{re.escape(line)}$" for line in may_fail]
