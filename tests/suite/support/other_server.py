#!/usr/bin/env python3
"""Makes a valkey-server that says it is of another version, for tests of what the module does there.

other_server.py SERVER COPY VERSION [NAME=OTHER]...

The copy differs in the number that the server gives modules (VALKEY_VERSION_NUM), and in the names of settings: NAME goes by OTHER, a name of the
same length. Everything else is as in SERVER, so a module that judges by the number alone is found out, and so is one that judges by its luck.
"""

import os
import re
import struct
import sys

# The end of the ELF header's identification, and the machines there are.
MACHINE_AT, X86_64, AARCH64 = 18, 62, 183


def number_of(version):
    major, minor, patch = (int(part) for part in version.split("."))
    return major << 16 | minor << 8 | patch


def own_version(server):
    answer = os.popen(f"'{server}' --version").read()
    return re.search(r" v=(\d+\.\d+\.\d+)", answer).group(1)


def returning(machine, number):
    """The instructions of a function that only returns that number."""
    if machine == X86_64:
        return b"\xb8" + struct.pack("<I", number) + b"\xc3"  # mov eax, number; ret
    if machine == AARCH64:
        low, high = number & 0xFFFF, number >> 16
        return struct.pack("<III", 0x52800000 | low << 5, 0x72A00000 | high << 5, 0xD65F03C0)  # mov, movk, ret
    sys.exit(f"other_server.py does not know machine {machine}")


def replace_once(code, old, new):
    if code.count(old) != 1:
        sys.exit(f"{old!r} is in the server {code.count(old)} times instead of once")
    return code.replace(old, new)


def main():
    server, copy, version, *renamed = sys.argv[1:]
    with open(server, "rb") as file:
        code = file.read()
    machine = struct.unpack_from("<H", code, MACHINE_AT)[0]
    code = replace_once(code, *(returning(machine, number_of(it)) for it in (own_version(server), version)))
    for pair in renamed:
        old, new = pair.encode().split(b"=")
        assert len(old) == len(new), pair
        code = replace_once(code, b"\0" + old + b"\0", b"\0" + new + b"\0")
    with open(copy, "wb") as file:
        file.write(code)
    os.chmod(copy, 0o755)


main()
