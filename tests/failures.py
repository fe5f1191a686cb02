#!/usr/bin/env python3
"""Checks that each row of the table in docs/failures.md has tests in FAILURES.md, and that those tests exist. The last line is
"N passed, N failed", where N are rows."""

import pathlib
import re
import sys

TESTS = pathlib.Path(__file__).resolve().parent
ROOT = TESTS.parent


def rows(text):
    """The cells of the first table in a Markdown text, without its two lines of headings."""
    lines = iter(text.splitlines())
    table = []
    for line in lines:
        if line.startswith("|"):
            table.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif table:
            break
    return table[2:]


def problem(tests):
    """What is wrong with a cell that names tests: files, each with the beginning of a test's name or without."""
    for test in tests.split(";"):
        named = re.fullmatch(r"`([^`]+)` ?(.*)", test.strip())
        if not named:
            return f"names no file: '{test.strip()}'"
        file, name = ROOT / named[1], named[2]
        if not file.is_file():
            return f"there is no {named[1]}"
        text = file.read_text(encoding="utf-8")
        # As Tcl, Rust and Python begin a test.
        begins = (f'test "{name}', f"fn {name}", f"def {name}")
        if name and not any(begin in text for begin in begins):
            return f"{named[1]} has no test '{name}'"
    return None


def main():
    promised = [row[0] for row in rows((ROOT / "docs" / "failures.md").read_text(encoding="utf-8"))]
    shown = {row[0]: row[1] for row in rows((TESTS / "FAILURES.md").read_text(encoding="utf-8"))}
    problems = {what: problem(shown[what]) if what in shown else "has no test in FAILURES.md" for what in promised}
    problems.update({what: "is no row of docs/failures.md" for what in shown if what not in promised})
    failed = {what: why for what, why in problems.items() if why}
    for what, why in failed.items():
        print(f"{what}: {why}")
    print(f"{len(problems) - len(failed)} passed, {len(failed)} failed")
    return bool(failed) or not promised


if __name__ == "__main__":
    sys.exit(main())
