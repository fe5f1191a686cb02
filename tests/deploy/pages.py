"""What README and docs tell people to type: the commands and files in their code blocks."""

import re

from built import ROOT

# What a command in a block begins with. Other blocks are files, answers and programs.
PROGRAMS = ("apt-get", "cargo", "cat", "deploy/", "docker", "editor", "helm", "install", "kill", "logservice", "openssl", "printf", "scripts/",
            "systemctl", "valkey-cli", "valkey-server")


def pages() -> list[str]:
    """README and all pages for who uses it: not those on design, and no records."""
    found = [path for path in (ROOT / "docs").rglob("*.md") if "design" not in path.parts]
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in found)]


def blocks(page: str) -> list[str]:
    """The code blocks of a page, without the blanks before all lines of one in a list."""
    text = (ROOT / page).read_text()
    return [re.sub(rf"(?m)^{indent}", "", block) for indent, block in re.findall(r"(?ms)^( *)```\n(.*?)^ *```$", text)]


def commands(page: str) -> list[str]:
    """The commands of a page, with all their lines, and without comments."""
    found = []
    for block in blocks(page):
        for command in re.findall(r"(?m)^(?:.*\\\n)*.*$", block):
            if command.startswith(PROGRAMS):
                found.append(re.sub(r" +# .*$", "", command))
    return found


class Pages:
    """Gives out what the pages say, and notes what was asked for."""

    def __init__(self):
        self.asked: set[tuple[str, str]] = set()

    def command(self, page: str, start: str, changes: dict[str, str] | None = None) -> str:
        """The one command of a page that begins so, with these words in the place of others."""
        found = [command for command in commands(page) if command.startswith(start)]
        if not found or len(set(found)) > 1:
            raise AssertionError(f"{page} has {len(found)} commands that begin with {start!r}: {found}")
        self.asked.add((page, found[0]))
        return change(found[0], changes or {})

    def file(self, page: str, start: str, changes: dict[str, str] | None = None) -> str:
        """The one block of a page that begins so."""
        found = [block for block in blocks(page) if block.startswith(start)]
        if len(found) != 1:
            raise AssertionError(f"{page} has {len(found)} blocks that begin with {start!r}")
        return change(found[0], changes or {})


def change(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        if old not in text:
            raise AssertionError(f"{old!r} is not in {text!r}")
        text = text.replace(old, new)
    return text
