"""What differs between two states that `state.lua` read."""

# How the same value may be stored in two ways, as the way to it counts and not only what it is. Other encodings must be equal.
NOISE = {
    # The stream has a value as the text that came of it (INCRBYFLOAT as SET, SETRANGE as itself), the leader as it was made.
    ("string", "embstr", "int"), ("string", "embstr", "raw"), ("string", "int", "raw"),
    # Not turned back when it shrinks: the leader may have held more for a moment, or found room in one step where the stream has several.
    ("list", "listpack", "quicklist"), ("zset", "listpack", "skiplist"), ("set", "hashtable", "listpack"), ("set", "hashtable", "intset"),
    ("set", "intset", "listpack"),
    # A hash is made a table by its first field with a time to live, of which the node may never hear: HSETEX with a time that is over.
    ("hash", "hashtable", "listpack"),
}


def in_order(functions) -> list:
    """FUNCTION LIST in an order that does not depend on how a server keeps it: libraries by name, and the functions of each."""
    libraries = [dict(zip(library[::2], library[1::2])) for library in functions]
    for library in libraries:
        library[b"functions"] = sorted(library[b"functions"], key=repr)
    return sorted((sorted(library.items()) for library in libraries), key=repr)


def is_same_hyperloglog(a, b) -> bool:
    """Whether two strings are the same HyperLogLog, of which one is sparse and the other dense: servers of different hll-sparse-max-bytes."""
    if not all(isinstance(value, bytes) and value[:4] == b"HYLL" for value in (a, b)) or a[4] == b[4]:
        return False
    return registers(a) == registers(b)


def registers(hyperloglog: bytes) -> list[int]:
    """As the server's hyperloglog.c describes both encodings."""
    body = hyperloglog[16:] + bytes(1)
    if hyperloglog[4] == 0:
        return [(body[at * 6 // 8] | body[at * 6 // 8 + 1] << 8) >> (at * 6 & 7) & 63 for at in range(16384)]
    found, at = [], 0
    while at < len(body) - 1:
        byte = body[at]
        if byte & 0x80:
            found += [(byte >> 2 & 31) + 1] * ((byte & 3) + 1)
        elif byte & 0x40:
            at += 1
            found += [0] * (((byte & 63) << 8 | body[at]) + 1)
        else:
            found += [0] * ((byte & 63) + 1)
        at += 1
    return found


def by_key(state) -> dict:
    (hard, soft), functions = state[:2]
    found = {(row[0], row[1].decode("utf-8", "replace")): row[2:] for row in hard[:-1]}
    found["indexes of what expires", ""] = hard[-1]
    found["functions", ""] = functions
    return found


def differences(leader, node) -> list[tuple]:
    """(database, key, what, at the leader, at the node) of each hard difference. States are what `state.lua` read, the functions, and how
    many commands of the stream were answered with an error."""
    if node[2:] > leader[2:]:
        return [("stream", "", "errors at the node", leader[2], node[2]), *differences(leader[:2], node[:2])]
    if leader[0][0] == node[0][0] and leader[1] == node[1]:
        return [(row[0], row[1].decode("utf-8", "replace"), "encoding", a[0], b[0])
                for row, a, b in zip(leader[0][0], leader[0][1], node[0][1])
                if a[0] != b[0] and (row[2].decode(), *sorted((a[0].decode(), b[0].decode()))) not in NOISE]
    ours, theirs = by_key(leader), by_key(node)
    found = []
    for place in sorted(ours.keys() | theirs.keys(), key=repr):
        a, b = ours.get(place), theirs.get(place)
        if a == b:
            continue
        if a is None or b is None:
            found.append((*place, "only at the node" if a is None else "missing at the node", a, b))
        elif not isinstance(place[0], int):
            found.append((*place, place[0], a, b))
        elif a[0] != b[0]:
            found.append((*place, "type", a, b))
        else:
            if a[1] != b[1]:
                found.append((*place, "time to live", a[1], b[1]))
            if a[2] != b[2]:
                found.append((*place, f"{a[0].decode()} value", a[2], b[2]))
    # The indexes follow from the rest: they count if nothing else differs.
    rest = [row for row in found if row[0] != "indexes of what expires"]
    return rest or found


def soft_differences(leader, node) -> list[tuple]:
    """(kind, type, at the leader, at the node) of what may differ, of keys that are equal."""
    found = []
    if leader[0][0] != node[0][0]:
        return found
    for row, a, b in zip(leader[0][0], leader[0][1], node[0][1]):
        if a != b:
            kind = "encoding" if a[0] != b[0] else ("stream nodes" if a[1][:2] != b[1][:2] else "times a consumer was seen")
            found.append((kind, row[2].decode(), a, b))
    return found
