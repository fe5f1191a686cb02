#!/usr/bin/env python3
"""Checks that every relative link in the documents leads to a file, that its #anchor is a heading there, and that docs/README.md links
every page of docs/. The last line is "N passed, N failed", where N are links and pages."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INDEX = ROOT / "docs" / "README.md"


def documents():
    """The Markdown files of the product, without what is built or fetched."""
    beside = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    within = [file for folder in ("docs", "tests") for file in sorted((ROOT / folder).rglob("*.md"))]
    return [file for file in beside + within if file.is_file()]


def prose(text):
    """The text without its blocks of code."""
    return re.sub(r"^( *)(```+).*?^ *\2[ ]*$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text):
    """The anchors of a document's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(text), flags=re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        anchor, number = slug, 0
        while anchor in found:
            number += 1
            anchor = f"{slug}-{number}"
        found.add(anchor)
    return found


def links(text):
    """The targets of a document's links that do not lead into the web."""
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"(?<!\[)`[^`\n]*`(?!\])", "", prose(text)))
    return [target for target in targets if not re.match(r"\w+:", target)]


def follow(file, target):
    """The file to which a link leads, and what is wrong with the link."""
    path, _, anchor = target.partition("#")
    there = (file.parent / path).resolve() if path else file
    if not there.exists():
        return there, f"there is no {path}"
    if anchor and (there.suffix != ".md" or anchor not in anchors(there.read_text(encoding="utf-8"))):
        return there, f"{path or 'this page'} has no heading #{anchor}"
    return there, None


def main():
    passed, failed, listed = 0, 0, set()

    def count(file, what, why):
        nonlocal passed, failed
        if why:
            failed += 1
            print(f"{file.relative_to(ROOT)}: {what}: {why}")
        else:
            passed += 1

    for file in documents():
        for target in links(file.read_text(encoding="utf-8")):
            there, why = follow(file, target)
            count(file, target, why)
            if file == INDEX:
                listed.add(there)
    for page in sorted((ROOT / "docs").rglob("*.md")):
        if page != INDEX:
            count(INDEX, page.relative_to(ROOT), None if page in listed else "the index does not link this page")
    print(f"{passed} passed, {failed} failed")
    return int(failed > 0 or passed == 0)


if __name__ == "__main__":
    sys.exit(main())
