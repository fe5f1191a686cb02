#!/usr/bin/env python3
"""Checks docs/reference/ against the code, both ways: every config, flag, command, field and error code that the code declares is
there, with the default, role or status that it has, and nothing is there that the code does not declare. The last line is "N passed, N failed", where N are names."""

import http
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"

# Where the code declares what the reference names.
MODULE_ENTRY = "src/front/entry.rs"
MODULE_SETTINGS = "src/settings"
MODULE_FIGURES = "src/front/info.rs"
FLAGS = ["logservice/src/program/config.rs", "logservice/src/program/command_line.rs", "logservice/src/program/cluster_flags.rs",
         "logservice/src/tools/restore.rs", "logservice/src/tools/backups.rs", "logservice/src/engine/flags.rs"]
LOG_COMMANDS = "logservice/src/resp/command_roles.rs"
LOG_STATUS = "logservice/src/service/status_fields.rs"
LOG_STATUS_OF_CONNECTION = "logservice/src/resp/admin.rs"
LOG_STATUS_NODE = "logservice/src/resp/node.rs"
LOG_AUDIT = "logservice/src/resp/audit.rs"
HTTP_REQUESTS = "logservice/src/http/endpoints.rs"
HTTP_ERRORS = "logservice/src/http/gate.rs"
PROTOCOL = "protocol/src/lib.rs"
ERROR_CODES = "protocol/src/refusal.rs"


def source(path):
    """The text of a file without its tests, comments and attributes of documentation."""
    text = (ROOT / path).read_text(encoding="utf-8").partition("#[cfg(test)]\nmod tests")[0]
    return re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)


def section(page, heading):
    """What stands below a heading of a page, up to the next one of its level or above."""
    text = (page if page.is_absolute() else REFERENCE / page).read_text(encoding="utf-8")
    level = len(heading) - len(heading.lstrip("#"))
    below = f"\n{text}".partition(f"\n{heading}\n")[2]
    return re.split(rf"^#{{1,{level}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text):
    """The cells of every table in a text, without the lines of headings."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        is_heading = at + 1 < len(lines) and re.match(r"\|[-|: ]+\|$", lines[at + 1])
        if line.startswith("|") and not is_heading and not re.match(r"\|[-|: ]+\|$", line):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def spans(cell):
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def value(expression, constants):
    """What a Rust expression stands for, as an operator writes it; `None` for nothing."""
    expression = expression.strip()
    while expression.rpartition("::")[2] in constants:
        expression = constants[expression.rpartition("::")[2]]
    number = re.fullmatch(r"([\d_]+)(?: << (\d+))?", expression)
    if number:
        number = int(number[1]) << int(number[2] or 0)
        units = [(1 << 30, "gb"), (1 << 20, "mb")]
        return next((f"{number // unit}{name}" for unit, name in units if number and number % unit == 0), str(number))
    words = {"false": "no", "true": "yes"}
    return words.get(expression, expression.rpartition("::")[2].strip('"').lower()) or None


def module_configs():
    """Every config with its default."""
    code = "\n".join(source(file.relative_to(ROOT)) for file in sorted((ROOT / MODULE_SETTINGS).rglob("*.rs")))
    constants = dict(re.findall(r"\bconst (\w+): [^=]+ = ([^;]+);", code))
    declaration = r'\w+: (\w+) = \w+::\w+\("([a-z-]+)"(?:, ([^,)]+))?'
    declared = {}
    for kind, name, default in re.findall(declaration, code):
        declared[f"durability.{name}"] = value(default or ("false" if kind == "Switch" else '""'), constants)
    named = {}
    for row in rows(section(pathlib.Path("configuration.md"), "## The module")):
        named.update({name: shown_default(row[1]) for name in spans(row[0])})
    return declared, named


def shown_default(text):
    """A default as the reference writes it: `None` if it is nothing or in words."""
    values = spans(text)
    return values[0] if values and text == f"`{values[0]}`" else None


def flags():
    """Every flag with its default. A flag that the service shares with check, dump or restore is compared once."""
    declared = {}
    for path in FLAGS:
        for attributes, name in re.findall(r"#\[arg\(([^\n]*\blong\b[^\n]*)\)\]\s*(?:pub )?(\w+):", source(path)):
            default = re.search(r'\bdefault_value(?:_t)? = (?:"([^"]*)"|[\w:]*?(\w+))(?:,|$)', attributes)
            value = (default[1] or default[2].replace("_", "").lower()) if default else None
            flag = "--" + name.replace("_", "-")
            # Bounds of --from and --to are no defaults that anybody gives.
            declared.setdefault(flag, None if flag in ("--from", "--to") else value)
    serving, _, looking = section(pathlib.Path("configuration.md"), "## logservice").partition("### check, dump and restore")
    named = {flag: None for row in rows(looking) for flag in spans(row[0])}
    named.update({flag: shown_default(row[1]) for row in rows(serving) for flag in spans(row[0])})
    return declared, named


def module_commands():
    declared = dict.fromkeys(name.upper() for name in re.findall(r'\["(durability\.[a-z-]+)"', source(MODULE_ENTRY)))
    text = section(pathlib.Path("commands.md"), "## Of a node")
    return declared, dict.fromkeys(span.split()[0] for span in spans(text) if span.startswith("DURABILITY."))


def commands_of_the_log():
    """Every command of the log service with the role that it needs."""
    constants = dict(re.findall(r'pub const (\w+): &str = "(LOG\.[A-Z-]+)"', source(PROTOCOL)))
    entry = r'entry\((?:protocol::(\w+)|"(\w+)"), Command::\w+, (?:Access::)?(\w+)\)'
    declared = {constants.get(constant) or name: role.lower() for constant, name, role in re.findall(entry, source(LOG_COMMANDS))}
    table = rows(section(pathlib.Path("commands.md"), "## Of the log service"))
    named = {span.split()[0]: row[1] for row in table for span in spans(row[0])}
    return declared, named


def requests():
    """Every path of the HTTP port with the role that it needs."""
    endpoint = r'path: "([^"]+)",\s+access: Access::(?:Needs\(TokenRole::)?(\w+)'
    declared = {path: role.lower() for path, role in re.findall(endpoint, source(HTTP_REQUESTS))}
    table = rows(section(pathlib.Path("commands.md"), "## The HTTP port"))
    return declared, {span.split()[1]: row[1] for row in table for span in spans(row[0])}


def declared_fields(path, pattern=r'\("([a-z_]+)", '):
    return dict.fromkeys(re.findall(pattern, source(path), flags=re.MULTILINE))


def named_fields(page, heading):
    names = (span for row in rows(section(page, heading)) for span in spans(row[0]))
    # Those that are numbered are declared with their number left out, or not one by one.
    return dict.fromkeys(name for name in names if not re.search(r"\d$", name))


def fields_of_the_module():
    # A field that is always shown is `name: |it| value`; the name of another is a constant.
    pattern = r'(?:^    (?=[a-z_0-9]+: \|)|^const \w+: &str = ")([a-z_0-9]+)\b'
    return declared_fields(MODULE_FIGURES, pattern), named_fields(pathlib.Path("fields.md"), "## DURABILITY.STATUS")


def fields_of_the_log():
    of_shards = declared_fields(LOG_STATUS, r'\bfield\([\w:]+, "([a-z_]+)", ')
    return of_shards | declared_fields(LOG_STATUS_OF_CONNECTION), named_fields(pathlib.Path("fields.md"), "## LOG.STATUS")


def fields_of_nodes():
    declared = dict.fromkeys(re.findall(r"\b([a-z_]+)=\{", source(LOG_STATUS_NODE)))
    text = section(pathlib.Path("fields.md"), "### Nodes").rpartition("Each holds:")[2]
    return declared, dict.fromkeys(spans(text))


def fields_of_audits():
    return declared_fields(LOG_AUDIT), named_fields(ROOT / "docs" / "audit.md", "# Audits")


def error_codes():
    """Every code with the status that the HTTP port answers."""
    words = dict(re.findall(r'Code::(\w+) => "([A-Z]+)"', source(ERROR_CODES)))
    declared = {}
    for codes, status in re.findall(r"((?:Code::\w+(?: \| )?)+) => (?:\{\s*)?StatusCode::(\w+)", source(HTTP_ERRORS)):
        for code in re.findall(r"Code::(\w+)", codes):
            declared[words.get(code, code)] = str(http.HTTPStatus[status].value)
    declared = {word: declared.get(word) for word in words.values()}
    table = rows(section(pathlib.Path("errors.md"), "## Of the log service"))
    return declared, {span: row[2] for row in table for span in spans(row[0])}


def errors_of_a_node():
    """The texts of the module's errors, as far as the reference quotes them. Those that it leaves out are not looked for."""
    files = [file for folder in ("src", "leadership/src") for file in sorted((ROOT / folder).rglob("*.rs"))]
    code = "\n".join(source(file.relative_to(ROOT)) for file in files)
    code = re.sub(r"\\\n\s*", "", code)
    declared, named = {}, {}
    for row in rows(section(pathlib.Path("errors.md"), "## Of a node")):
        for error in spans(row[0]):
            named[error] = None
            word, text = re.fullmatch(r"(?:-([A-Z]+) )?(?:durability: )?(.*)", error).groups()
            parts = [part.strip(" .") for part in text.split("…")]
            parts = [part for part in parts if len(part) > 3] or [f"{word} "]
            if all(part in code for part in parts) and (not word or word in code):
                declared[error] = None
    return declared, named


CHECKS = {
    "config": module_configs,
    "flag": flags,
    "command of a node": module_commands,
    "command of the log service": commands_of_the_log,
    "request": requests,
    "field of DURABILITY.STATUS": fields_of_the_module,
    "field of LOG.STATUS": fields_of_the_log,
    "field of a node in LOG.STATUS": fields_of_nodes,
    "field of LOG.AUDIT": fields_of_audits,
    "error code": error_codes,
    "error of a node": errors_of_a_node,
}


def problems(declared, named):
    """What is wrong with each name."""
    for name in declared:
        if name not in named:
            yield name, "is not in the reference"
        elif declared[name] != named[name]:
            yield name, f"is '{named[name]}' in the reference and '{declared[name]}' in the code"
    for name in named:
        if name not in declared:
            yield name, "is in the reference and not in the code"


def main():
    passed, failed = 0, 0
    for kind, read in CHECKS.items():
        declared, named = read()
        wrong = dict(problems(declared, named))
        if not declared:
            wrong["none"] = "was found in the code: where they are declared has changed"
        for name, why in wrong.items():
            print(f"{kind} {name}: {why}")
        failed += len(wrong)
        passed += len(declared.keys() | named.keys()) - len(wrong.keys() - {"none"})
    print(f"{passed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
