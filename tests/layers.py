#!/usr/bin/env python3
"""Checks that the module's rooms and the log service's import one way, that no circle of the module's files is large, that `unsafe` stays
where it belongs, and that only tools name a kind of store. The last line is "N passed, N failed", where N are files.

    tests/layers.py              checks
    tests/layers.py --list       prints the rooms and what each imports, as it stands in CONTRIBUTING.md
    tests/layers.py --edges      prints every import between two files that crosses rooms
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# From the top down. A file imports its own room and the rooms below. Rooms in one line do not see each other.
LAYERS = [["front"], ["node"], ["server", "agent", "lead"], ["exchange"], ["log"], ["decide"], ["settings"], ["base"]]
RANK = {room: len(LAYERS) - i for i, layer in enumerate(LAYERS) for room in layer}
# These two are one half of the module each: the agent's threads keep the lease.
SEE_EACH_OTHER = {("agent", "lead"), ("lead", "agent")}
# Files at the root of `src/`, and the room that each belongs to.
ROOM_OF = {"hooks": "node", "shipper": "agent", "lag": "decide"}
LARGEST_CIRCLE = 3
# The rooms of the log service, in the same way.
SERVICE_LAYERS = [["program"], ["tools"], ["resp", "http"], ["snapshotter", "archiver"], ["service"], ["audit"], ["shard"], ["replica"], ["engine"], ["archive"], ["snapshots"],
                  ["store"], ["encryption"], ["access"], ["connections"], ["base"]]
SERVICE_RANK = {room: len(SERVICE_LAYERS) - i for i, layer in enumerate(SERVICE_LAYERS) for room in layer}

# Files outside of `src/server/` that may hold `unsafe`, and why.
MAY_BE_UNSAFE = {
    "front/entry": "the functions that the server looks for by name when it loads the library",
}

# The rooms of the log service that may name a kind of store. Tools read a store's files without serving them, and copies of a log are kept in
# files of the same kind.
MAY_NAME_A_STORE = {"store", "tools", "replica"}
KINDS_OF_STORE = {"file_store", "memory_store"}


class Source:
    """The files of one crate, by module path."""

    def __init__(self, folder):
        self.folder = folder
        self.files = {}
        for file in sorted(folder.rglob("*.rs")):
            path = list(file.relative_to(folder).with_suffix("").parts)
            if path[-1] == "mod":
                path.pop()
            if path and path not in (["lib"], ["main"]) and "bin" not in path:
                self.files[tuple(path)] = file

    def owner(self, path):
        """The file in which a path of the crate is declared, as far as its name tells."""
        path = tuple(path)
        while path and path not in self.files:
            path = path[:-1]
        return path or None

    def imports(self, module):
        """The files that a file uses, without what only its tests use."""
        text = without_tests(code(self.files[module].read_text(encoding="utf-8")))
        used, aliases = set(), {}
        for tree in re.findall(r"\buse\s+([^;]+);", text):
            for path, name in leaves(tree):
                path = absolute(path, module)
                if path:
                    used.add(tuple(path))
                    aliases[name] = tuple(path)
        # What a `use` names is known by now. Its text begins with a folder's name even where it takes only files of that folder.
        text = re.sub(r"\buse\s+[^;]+;", "", text)
        for path in re.findall(r"(?<![\w:])((?:crate|super)(?:::\w+)+)", text):
            path = absolute(path.split("::"), module)
            if path:
                used.add(tuple(path))
        # A folder that is imported by its name shows the file only where it is used.
        for name, path in aliases.items():
            for rest in re.findall(rf"(?<![\w:]){name}((?:::\w+)+)", text):
                used.add(path + tuple(rest.split("::")[1:]))
        return {self.owner(path) for path in used} - {None, module}


def code(text):
    """The text without comments and strings, which may name files that they do not use."""
    return re.sub(r"""//[^\n]*|'(?:\\.|[^'\\])'|"(?:\\[\s\S]|[^"\\])*\"""", "", text)


def without_tests(text):
    """The text without its modules of tests."""
    while True:
        begin = re.search(r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)?(?:pub )?(?:mod|use) [^;{]*([;{])", text)
        if not begin:
            return text
        end = begin.end()
        depth = begin[1] == "{"
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        text = text[: begin.start()] + text[end:]


def leaves(tree):
    """The paths of a `use`, each with the name that it has in the file."""
    tokens = re.findall(r"\w+|::|[{},*]", tree)
    result = []

    def read(prefix):
        path = list(prefix)
        while tokens:
            token = tokens.pop(0)
            if token == "{":
                while tokens and tokens[0] != "}":
                    read(path)
                    if tokens and tokens[0] == ",":
                        tokens.pop(0)
                tokens.pop(0)
                return
            if token == "as":
                result.append((path, tokens.pop(0)))
                return
            if token not in ("::", "self") or token == "self" and not path:
                path.append(token)
            if not tokens or tokens[0] in (",", "}"):
                result.append((path, path[-1]))
                return

    read([])
    return result


def absolute(path, module):
    """A path from the crate's root, without `crate`; None if it leads out of the crate."""
    if path[0] == "crate":
        return path[1:]
    if path[0] != "super":
        return None
    base = list(module)
    while path and path[0] == "super":
        path, base = path[1:], base[:-1]
    return base + list(path)


def circles(graph):
    """The strongly connected parts of a graph that have more than one member (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = []
            while not part or part[-1] != node:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def room(module):
    return module[0] if len(module) > 1 or module[0] in RANK else ROOM_OF.get(module[0])


def name(module):
    return "/".join(module)


def is_test(module):
    return module[-1].endswith("tests")


def points_up(above, below):
    """Whether an import of one room by another breaks the order."""
    return above != below and (above, below) not in SEE_EACH_OTHER and RANK[below] >= RANK[above]


def check_module(source):
    """What is wrong with each file of the module."""
    graph = {module: source.imports(module) for module in source.files if not is_test(module)}
    problems = {}

    def complain(module, text):
        problems.setdefault(module, []).append(text)

    for module, imported in graph.items():
        if room(module) is None:
            complain(module, f"is in no room: one of {', '.join(RANK)}")
            continue
        for other in sorted(imported):
            if room(other) and points_up(room(module), room(other)):
                complain(module, f"imports {name(other)}, which is above it or beside it")
        text = code(source.files[module].read_text(encoding="utf-8"))
        if re.search(r"\bunsafe\b", text) and room(module) != "server" and name(module) not in MAY_BE_UNSAFE:
            complain(module, "holds unsafe, which belongs into server/")
    for circle in circles(graph):
        if len(circle) > LARGEST_CIRCLE:
            complain(circle[0], f"is in a circle of {len(circle)} files: {', '.join(map(name, circle))}")
    return graph, problems


def check_service(source):
    """What is wrong with each file of the log service."""
    graph = {m: source.imports(m) for m in source.files if not is_test(m) and "fuzz" not in m[-1]}
    problems = {}
    for module, imported in graph.items():
        if module[0] not in SERVICE_RANK:
            problems[module] = [f"is in no room: one of {', '.join(SERVICE_RANK)}"]
            continue
        above = [other for other in sorted(imported) if other[0] != module[0] and SERVICE_RANK.get(other[0], 0) >= SERVICE_RANK[module[0]]]
        found = [f"imports {name(other)}, which is above it or beside it" for other in above]
        kinds = {other[1] for other in imported if other[0] == "store" and len(other) > 1} & KINDS_OF_STORE
        if kinds and module[0] not in MAY_NAME_A_STORE:
            found.append(f"names {', '.join(sorted(kinds))}, but only StoreFactory may be known here")
        if found:
            problems[module] = found
    return graph, problems


def listing(graph):
    """The rooms from the top down: their files, and the rooms that they import."""
    lines = []
    for layer in LAYERS:
        for here in layer:
            files = sorted(m for m in graph if room(m) == here)
            below = {room(other) for m in files for other in graph[m]} - {here, None}
            names = ", ".join(m[-1] if m != (here,) else "mod" for m in files)
            lines.append(f"{here + '/':<10} imports {', '.join(sorted(below, key=lambda other: (-RANK[other], other))) or 'nothing'}")
            lines.append(f"{'':<10} {names}")
    return "\n".join(lines)


def main():
    module, service = Source(ROOT / "src"), Source(ROOT / "logservice" / "src")
    graph, problems = check_module(module)
    if sys.argv[1:] == ["--list"]:
        print(listing(graph))
        return 0
    if sys.argv[1:] == ["--edges"]:
        for above in sorted(graph):
            for below in sorted(graph[above]):
                if room(above) != room(below):
                    print(f"{name(above)} -> {name(below)}")
        return 0
    files, more = check_service(service)
    guide, outdated = ROOT / "CONTRIBUTING.md", {}
    if listing(graph) not in (guide.read_text(encoding="utf-8") if guide.is_file() else ""):
        outdated[("CONTRIBUTING",)] = ["does not hold what tests/layers.py --list prints"]
    for folder, found in [("src/", problems), ("logservice/src/", more), ("", outdated)]:
        for file, texts in found.items():
            for text in texts:
                print(f"{folder}{name(file)}: {text}")
    failed = len(problems) + len(more) + len(outdated)
    print(f"{len(graph) + len(files) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
