#!/usr/bin/env python3
"""Checks that every path that a document or a comment names in backticks exists. The last line is "N passed, N failed", where N are paths.

A path is a word that ends in .rs, .sh, .py, .tcl, .md or "/". In a document it is relative to the root, to `src/` or to
`logservice/src/`. In a comment of a Rust file it may also be relative to the file's own folder or to its crate. Placeholders
(`DIR/…`, `<name>`) and absolute paths are no paths of this repository.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASES = [ROOT, ROOT / "src", ROOT / "logservice" / "src"]
CRATES = ["src", "logservice", "protocol", "tls", "leadership", "tests"]
# What was true when it was written stays as it is.
HISTORY = {"CHANGELOG.md"}

ENDINGS = (".rs", ".sh", ".py", ".tcl", ".md")
WORD = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*/?")


def paths(span):
    """The paths among the words of what stands in backticks. Only a path that stands alone may be a folder: "and/" is none."""
    words = span.split()
    for word in words:
        is_folder = word.endswith("/") and len(words) == 1 and not word.startswith("DIR/")
        if WORD.fullmatch(word) and (word.endswith(ENDINGS) or is_folder):
            yield word


def exists(path, bases):
    """Whether there is such a file or folder. An asterisk stands for any part of a name."""
    for base in bases:
        found = any(base.glob(path.rstrip("/"))) if "*" in path else (base / path).exists()
        if found and (not path.endswith("/") or "*" in path or (base / path).is_dir()):
            return True
    return False


def spans(text):
    """What stands in backticks, with its line. What a block of code holds counts line by line."""
    in_block = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_block = not in_block
        elif in_block:
            # Commands to copy. What is printed there, or drawn, are no paths.
            yield from ((number, word) for word in line.split() if word.endswith(ENDINGS) and "/" in word)
        else:
            yield from ((number, span) for span in re.findall(r"`([^`]+)`", line))


def documents():
    for folder, pattern in [(ROOT, "*.md"), (ROOT / "docs", "**/*.md"), (ROOT / "tests", "*.md")]:
        for file in sorted(folder.glob(pattern)):
            if file.name not in HISTORY:
                yield file, file.read_text(encoding="utf-8"), BASES


def comments():
    for crate in CRATES:
        for file in sorted((ROOT / crate).rglob("*.rs")):
            if "target" in file.relative_to(ROOT).parts:
                continue
            # Code keeps its line, so that a problem has its place.
            lines = file.read_text(encoding="utf-8").splitlines()
            text = "\n".join(line.partition("//")[2].lstrip("/! ") for line in lines)
            own = [parent for parent in file.parents if ROOT in parent.parents]
            yield file, text.replace("```", ""), BASES + own


def main():
    passed, problems = 0, []
    for file, text, bases in [*documents(), *comments()]:
        for number, span in spans(text):
            for path in paths(span):
                if exists(path, bases):
                    passed += 1
                else:
                    problems.append(f"{file.relative_to(ROOT)}:{number}: there is no {path}")
    for problem in problems:
        print(problem)
    print(f"{passed} passed, {len(problems)} failed")
    return bool(problems) or not passed


if __name__ == "__main__":
    sys.exit(main())
