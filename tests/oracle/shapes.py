"""The shapes of commands, by kind of value: every command of Valkey 9.1 that writes or may write, and reads that have effects."""

# The time at which every sequence begins. Nothing depends on the day of the run.
BASE_MS = 1_900_000_000_000

# Filled in by the harness from a server, as what DUMP says has a version.
FUNCTIONS_PAYLOAD = b""
# Where MIGRATE sends keys: a server that nobody looks at.
MIGRATE_TO_PORT = 0

KEYS = {
    "string": ["s1", "s2"], "bits": ["s1", "b1"], "hash": ["h1", "h2"], "list": ["l1", "l2"], "set": ["t1", "t2"],
    "zset": ["z1", "z2"], "geo": ["g1", "z1"], "stream": ["x1", "x1", "x2"], "hll": ["p1", "p2"],
}
EVERY_KEY = sorted({key for keys in KEYS.values() for key in keys})


class Words:
    """Draws the words of a command that is about one kind of value."""

    def __init__(self, rng, family, payloads, narrow=False):
        self.rng, self.family, self.payloads, self.narrow = rng, family, payloads, narrow

    def one(self, *choices):
        return self.rng.choice(choices)

    def maybe(self, *words, chance=0.3) -> list:
        return list(words) if self.rng.random() < chance else []

    def some(self, draw, most=3) -> list:
        return [word for _ in range(self.rng.choice(range(1, most + 1))) for word in listed(draw())]

    def key(self, family=None) -> str:
        if self.rng.random() < 0.03:
            return self.rng.choice(EVERY_KEY)
        names = KEYS.get(family or self.family, EVERY_KEY)
        # Where a sequence is narrow, its commands meet at one key of a kind.
        return names[0] if self.narrow and self.rng.random() < 0.85 else self.rng.choice(names)

    def member(self) -> str:
        return self.one("a", "b", "c", "1", "2", "x" * 70)

    def field(self) -> str:
        return self.one("a", "b", "c")

    def value(self) -> str:
        return self.one("1", "7", "x", "hello", "-3", "3.5", "", "y" * 70)

    def score(self) -> str:
        return self.one("0", "1", "2", "-1.5", "3.3", "inf", "-inf")

    def number(self) -> int:
        return self.one(-2, -1, 0, 1, 2, 3, 100)

    def count(self) -> int:
        return self.one(0, 1, 1, 2, 3, 10)

    def numkeys(self, family=None, most=2) -> list:
        keys = [self.key(family) for _ in range(self.one(*range(1, most + 1)))]
        return [len(keys)] + keys

    def fields(self) -> list:
        fields = [self.field() for _ in range(self.one(1, 1, 2, 2, 3))]
        return ["FIELDS", len(fields)] + fields

    def relative(self, unit_ms=1) -> int:
        return self.one(1, 2, 5, 10, 1000, 100_000, 0, -1) if unit_ms == 1 else self.one(1, 1, 2, 100, 0, -5)

    def absolute(self, unit_ms=1) -> int:
        when = BASE_MS + self.one(1, 2, 5, 10, 1000, 2000, 100_000, -1000, 0)
        return when // unit_ms if self.rng.random() < 0.95 else self.one(1, 0, -1)

    def expiry(self, *more) -> list:
        """EX, PX, EXAT or PXAT with a time, or one of the words given."""
        kind = self.one("EX", "PX", "PX", "EXAT", "PXAT", "PXAT", *more)
        if kind in more:
            return [kind]
        unit_ms = 1000 if kind.startswith("E") else 1
        return [kind, self.absolute(unit_ms) if kind.endswith("AT") else self.relative(unit_ms)]

    def stream_id(self) -> str:
        return self.one("1-1", "1-2", "2-1", "2-2", "3-1", "5-5", f"{BASE_MS}-0", f"{BASE_MS}-1", "0", "0-0")

    def condition(self) -> list:
        return self.maybe(self.one("NX", "XX", "GT", "LT"), chance=0.4)


def listed(word) -> list:
    return word if isinstance(word, list) else [word]


def keys(w: Words) -> list:
    key = w.rng.choice(EVERY_KEY)
    if w.rng.random() < 0.8:
        key = w.rng.choice(KEYS[w.rng.choice(list(KEYS))])
    other = w.rng.choice(EVERY_KEY)
    return w.one(
        lambda: ["DEL"] + w.some(lambda: w.rng.choice(EVERY_KEY)), lambda: ["UNLINK"] + w.some(lambda: w.rng.choice(EVERY_KEY)),
        lambda: ["PEXPIRE", key, w.relative()] + w.condition(), lambda: ["PEXPIRE", key, w.relative()] + w.condition(),
        lambda: ["EXPIRE", key, w.relative(1000)] + w.condition(), lambda: ["EXPIREAT", key, w.absolute(1000)] + w.condition(),
        lambda: ["PEXPIREAT", key, w.absolute()] + w.condition(), lambda: ["PERSIST", key], lambda: ["PERSIST", key],
        lambda: ["RENAME", key, other], lambda: ["RENAMENX", key, other],
        lambda: ["COPY", key, other] + w.maybe("DB", w.one(0, 1, 2, 3)) + w.maybe("REPLACE", chance=0.6),
        lambda: ["MOVE", key, w.one(0, 1, 2, 3)],
        lambda: ["RESTORE", key, w.relative(), w.rng.choice(w.payloads)] + w.maybe("REPLACE", chance=0.7) + w.maybe("IDLETIME", 5, chance=0.1),
        lambda: ["RESTORE", key, w.absolute(), w.rng.choice(w.payloads), "ABSTTL"] + w.maybe("REPLACE", chance=0.7) + w.maybe("FREQ", 5, chance=0.1),
        lambda: ["RESTORE", key, 0, w.rng.choice(w.payloads)] + w.maybe("REPLACE", chance=0.7),
        lambda: ["MIGRATE", "127.0.0.1", MIGRATE_TO_PORT, "", 0, 5000] + w.maybe("COPY", chance=0.2) + ["REPLACE", "KEYS"] + w.some(lambda: w.rng.choice(EVERY_KEY)),
        lambda: ["RESTORE-ASKING", key, 0, w.rng.choice(w.payloads)] + w.maybe("REPLACE", chance=0.7),
        lambda: ["TOUCH", key], lambda: ["EXISTS", key, other], lambda: ["TYPE", key], lambda: ["PTTL", key], lambda: ["DUMP", key],
        lambda: ["OBJECT", "ENCODING", key], lambda: ["RANDOMKEY"], lambda: ["SCAN", 0], lambda: ["KEYS", "*"],
        lambda: ["SORT", key] + w.maybe("BY", "nosort") + w.maybe("ALPHA", chance=0.7) + w.maybe("STORE", other, chance=0.8),
        lambda: ["SORT", w.key("list"), "ALPHA"] + w.maybe("GET", "s*") + w.maybe("LIMIT", 0, w.one(0, 1, 2)) + ["STORE", other],
    )()


def string(w: Words) -> list:
    key = w.key()
    return w.one(
        lambda: ["SET", key, w.value()] + w.maybe(w.one("NX", "XX")) + w.maybe("GET", chance=0.2) + (w.expiry("KEEPTTL") if w.rng.random() < 0.6 else []),
        lambda: ["SET", key, w.value(), "IFEQ", w.value()] + w.maybe("GET", chance=0.2) + (w.expiry("KEEPTTL") if w.rng.random() < 0.5 else []),
        lambda: ["SETEX", key, w.relative(1000), w.value()], lambda: ["PSETEX", key, w.relative(), w.value()],
        lambda: ["SETNX", key, w.value()], lambda: ["GETSET", key, w.value()], lambda: ["GETDEL", key],
        lambda: ["GETEX", key] + w.expiry("PERSIST"), lambda: ["GETEX", key], lambda: ["GET", key], lambda: ["STRLEN", key],
        lambda: ["DELIFEQ", key, w.value()], lambda: ["APPEND", key, w.value()], lambda: ["SETRANGE", key, w.one(0, 1, 5), w.value()],
        lambda: ["INCR", key], lambda: ["DECR", key], lambda: ["INCRBY", key, w.number()], lambda: ["DECRBY", key, w.number()],
        lambda: ["INCRBYFLOAT", key, w.one("1.5", "0.1", "-3", "1e3")],
        lambda: ["MSET"] + w.some(lambda: [w.key(), w.value()]), lambda: ["MSETNX"] + w.some(lambda: [w.key(), w.value()]),
        lambda: msetex(w), lambda: ["GETRANGE", key, 0, 2], lambda: ["MGET", key, w.key()], lambda: ["LCS", key, w.key()],
    )()


def msetex(w: Words) -> list:
    pairs = [[w.key(), w.value()] for _ in range(w.one(1, 2, 3))]
    return ["MSETEX", len(pairs)] + [word for pair in pairs for word in pair] + w.maybe(w.one("NX", "XX")) + (
        w.expiry("KEEPTTL") if w.rng.random() < 0.7 else [])


def bits(w: Words) -> list:
    key = w.key()
    return w.one(
        lambda: ["SETBIT", key, w.one(0, 1, 7, 8, 100), w.one(0, 1)],
        lambda: ["BITOP", w.one("AND", "OR", "XOR", "NOT"), w.key(), w.key()] + w.maybe(w.key()),
        lambda: ["BITFIELD", key] + w.some(lambda: w.one(
            lambda: ["SET", "u8", w.one(0, 8), w.one(0, 1, 255)], lambda: ["INCRBY", "i5", w.one(0, 100), w.number()],
            lambda: ["GET", "u4", 0], lambda: ["OVERFLOW", w.one("WRAP", "SAT", "FAIL")])()),
        lambda: ["GETBIT", key, 1], lambda: ["BITCOUNT", key], lambda: ["BITPOS", key, 1], lambda: string(w),
    )()


def hash_(w: Words) -> list:
    key = w.key()
    return w.one(
        lambda: ["HSET", key] + w.some(lambda: [w.field(), w.value()]), lambda: ["HSET", key] + w.some(lambda: [w.field(), w.value()]),
        lambda: ["HSETNX", key, w.field(), w.value()], lambda: ["HMSET", key] + w.some(lambda: [w.field(), w.value()]),
        lambda: ["HDEL", key] + w.some(w.field), lambda: ["HINCRBY", key, w.field(), w.number()],
        lambda: ["HINCRBYFLOAT", key, w.field(), w.one("1.5", "0.1", "2")],
        lambda: ["HGETDEL", key] + w.fields(), lambda: ["HGETEX", key] + w.expiry("PERSIST") + w.fields(),
        lambda: ["HGETEX", key] + w.expiry("PERSIST") + w.fields(), lambda: ["HGETEX", key] + w.fields(),
        lambda: hsetex(w, key), lambda: hsetex(w, key), lambda: hsetex(w, key),
        lambda: ["HPEXPIRE", key, w.relative()] + w.condition() + w.fields(), lambda: ["HPEXPIRE", key, w.relative()] + w.condition() + w.fields(),
        lambda: ["HEXPIRE", key, w.relative(1000)] + w.condition() + w.fields(),
        lambda: ["HEXPIREAT", key, w.absolute(1000)] + w.condition() + w.fields(),
        lambda: ["HPEXPIREAT", key, w.absolute()] + w.condition() + w.fields(),
        lambda: ["HPERSIST", key] + w.fields(), lambda: ["HPERSIST", key] + w.fields(),
        lambda: ["HGET", key, w.field()], lambda: ["HGETALL", key], lambda: ["HLEN", key], lambda: ["HSCAN", key, 0],
        lambda: ["HRANDFIELD", key, w.one(1, -3)], lambda: ["HPTTL", key] + w.fields(), lambda: ["HEXISTS", key, w.field()],
        lambda: ["COPY", key, w.key()] + w.maybe("REPLACE", chance=0.7), lambda: ["RENAME", key, w.key()],
        lambda: ["DEL", key], lambda: ["PEXPIRE", key, w.relative()],
        # What the patterns name: h1, h2 and the fields there.
        lambda: ["RPUSH", "l1", "1", "2"],
        lambda: ["SORT", "l1"] + w.maybe("BY", w.one("h*->a", "h*->b")) + ["ALPHA", "GET", w.one("h*->a", "h*->b", "s*")] + w.maybe("GET", "#") + ["STORE", "l2"],
    )()


def hsetex(w: Words, key) -> list:
    fields = [[w.field(), w.value()] for _ in range(w.one(1, 1, 2, 3))]
    return (["HSETEX", key] + w.maybe(w.one("NX", "XX"), chance=0.15) + w.maybe(w.one("FNX", "FXX"), chance=0.25)
            + (w.expiry("KEEPTTL", "KEEPTTL") if w.rng.random() < 0.8 else [])
            + ["FIELDS", len(fields)] + [word for pair in fields for word in pair])


def list_(w: Words) -> list:
    key = w.key()
    side = w.one("LEFT", "RIGHT")
    return w.one(
        lambda: [w.one("LPUSH", "RPUSH", "LPUSHX", "RPUSHX"), key] + w.some(w.member),
        lambda: [w.one("LPUSH", "RPUSH"), key] + w.some(w.member),
        lambda: [w.one("LPOP", "RPOP"), key] + w.maybe(w.count(), chance=0.6),
        lambda: ["LINSERT", key, w.one("BEFORE", "AFTER"), w.member(), w.member()], lambda: ["LSET", key, w.number(), w.member()],
        lambda: ["LREM", key, w.number(), w.member()], lambda: ["LTRIM", key, w.number(), w.number()],
        lambda: ["RPOPLPUSH", key, w.key()], lambda: ["LMOVE", key, w.key(), side, w.one("LEFT", "RIGHT")],
        lambda: ["LMPOP"] + w.numkeys() + [side] + w.maybe("COUNT", w.one(1, 2, 10), chance=0.5),
        lambda: ["SORT", key, "ALPHA", w.one("ASC", "DESC"), "STORE", w.key()],
        lambda: ["LRANGE", key, 0, -1], lambda: ["LLEN", key], lambda: ["LPOS", key, w.member()],
        lambda: blocking(w),
    )()


def set_(w: Words) -> list:
    key = w.key()
    return w.one(
        lambda: ["SADD", key] + w.some(w.member, 5), lambda: ["SADD", key] + w.some(w.member, 5), lambda: ["SREM", key] + w.some(w.member),
        lambda: ["SPOP", key], lambda: ["SPOP", key, w.count()], lambda: ["SPOP", key, w.count()],
        lambda: ["SMOVE", key, w.key(), w.member()],
        lambda: [w.one("SINTERSTORE", "SUNIONSTORE", "SDIFFSTORE"), w.key(), w.key()] + w.maybe(w.key(), chance=0.6),
        lambda: ["SRANDMEMBER", key, 2], lambda: ["SMEMBERS", key], lambda: ["SISMEMBER", key, w.member()], lambda: ["SCARD", key],
        lambda: ["SORT", key, "ALPHA", "STORE", w.key("list")],
    )()


def zset(w: Words) -> list:
    key = w.key()
    lex = lambda: w.one("-", "+", "[a", "(b", "[c")
    rank = lambda: w.one("0", "1", "-1", "2", "(1", "+inf", "-inf")
    return w.one(
        lambda: ["ZADD", key] + w.some(lambda: [w.score(), w.member()]), lambda: ["ZADD", key] + w.some(lambda: [w.score(), w.member()]),
        lambda: ["ZADD", key] + w.condition() + w.maybe("CH") + w.some(lambda: [w.score(), w.member()]),
        lambda: ["ZADD", key] + w.maybe(w.one("NX", "XX", "GT", "LT")) + ["INCR", w.score(), w.member()],
        lambda: ["ZINCRBY", key, w.score(), w.member()], lambda: ["ZREM", key] + w.some(w.member),
        lambda: [w.one("ZPOPMIN", "ZPOPMAX"), key] + w.maybe(w.count(), chance=0.6),
        lambda: ["ZMPOP"] + w.numkeys() + [w.one("MIN", "MAX")] + w.maybe("COUNT", w.one(1, 2, 10), chance=0.5),
        lambda: ["ZREMRANGEBYRANK", key, w.number(), w.number()], lambda: ["ZREMRANGEBYSCORE", key, rank(), rank()],
        lambda: ["ZREMRANGEBYLEX", key, lex(), lex()],
        lambda: [w.one("ZUNIONSTORE", "ZINTERSTORE"), w.key()] + w.numkeys(w.one("zset", "set")) + w.maybe("AGGREGATE", w.one("SUM", "MIN", "MAX")),
        lambda: ["ZDIFFSTORE", w.key()] + w.numkeys(), lambda: ["ZRANGESTORE", w.key(), key, w.number(), w.number()] + w.maybe("REV"),
        lambda: ["ZRANGESTORE", w.key(), key, rank(), rank(), "BYSCORE"] + w.maybe("LIMIT", 0, w.count()),
        lambda: ["ZRANGESTORE", w.key(), key, lex(), lex(), "BYLEX"] + w.maybe("LIMIT", 0, w.count()),
        lambda: ["ZRANGE", key, 0, -1], lambda: ["ZSCORE", key, w.member()], lambda: ["ZRANDMEMBER", key, 2], lambda: ["ZCARD", key],
        lambda: blocking(w),
    )()


def geo(w: Words) -> list:
    key, place = w.key(), lambda: [w.one("13.3", "15.0", "2.35"), w.one("38.1", "37.5", "48.8"), w.member()]
    return w.one(
        lambda: ["GEOADD", key] + w.maybe(w.one("NX", "XX")) + w.maybe("CH") + w.some(place), lambda: ["GEOADD", key] + w.some(place),
        lambda: ["GEOSEARCHSTORE", w.key(), key, "FROMLONLAT", "15", "37", "BYRADIUS", w.one("100", "2000", "1"), "km"] + w.maybe("STOREDIST") + w.maybe("COUNT", 1),
        lambda: ["GEOSEARCHSTORE", w.key(), key, "FROMMEMBER", w.member(), "BYBOX", "900", "900", "km"],
        lambda: ["GEORADIUS", key, "15", "37", "500", "km"] + w.maybe(w.one("STORE", "STOREDIST"), w.key(), chance=0.8),
        lambda: ["GEORADIUSBYMEMBER", key, w.member(), "500", "km"] + w.maybe(w.one("STORE", "STOREDIST"), w.key(), chance=0.8),
        lambda: zset(w),
    )()


def stream(w: Words) -> list:
    key, group, consumer = w.key(), w.one("g", "g", "g", "g", "g", "k"), w.one("c", "c", "d", "e")
    trim = lambda: w.one(["MAXLEN"], ["MAXLEN", "~"], ["MAXLEN", "="]) + [w.count()] if w.rng.random() < 0.6 else (
        ["MINID"] + w.one([], ["~"], ["="]) + [w.stream_id()])
    limit = lambda words: words + (w.maybe("LIMIT", w.one(0, 1, 100)) if "~" in words else [])
    add = lambda: ["XADD", key] + w.maybe("NOMKSTREAM", chance=0.1) + (limit(trim()) if w.rng.random() < 0.3 else []) + [
        w.one("*", "*", w.stream_id(), "2-*", "1-*"), "f", w.value()]
    ids = lambda: w.some(w.stream_id)
    return w.one(
        add, add, add, add,
        lambda: ["XDEL", key] + ids(), lambda: ["XTRIM", key] + limit(trim()),
        lambda: ["XSETID", key, w.one(w.stream_id(), f"{BASE_MS + 5000}-0", f"{BASE_MS + 9000}-7")] + w.maybe("ENTRIESADDED", w.one(0, 1, 5, 10), "MAXDELETEDID", w.stream_id()),
        lambda: ["XGROUP", "CREATE", key, group, w.one("0", "$", w.stream_id())] + w.maybe("MKSTREAM", chance=0.6) + w.maybe("ENTRIESREAD", w.one(0, 1, 3, -1)),
        lambda: ["XGROUP", "CREATE", key, group, "0", "MKSTREAM"],
        lambda: ["XGROUP", "SETID", key, group, w.one("0", "$", w.stream_id())] + w.maybe("ENTRIESREAD", w.one(0, 1, 3, -1)),
        lambda: ["XGROUP", "CREATECONSUMER", key, group, consumer], lambda: ["XGROUP", "DELCONSUMER", key, group, consumer],
        lambda: ["XGROUP", "DESTROY", key, group] if w.rng.random() < 0.3 else add(),
        lambda: readgroup(w, key, group, consumer), lambda: readgroup(w, key, group, consumer), lambda: readgroup(w, key, group, consumer),
        lambda: ["XACK", key, group] + ids(), lambda: ["XACK", key, group] + ids(),
        lambda: ["XCLAIM", key, group, consumer, w.one(0, 0, 5)] + ids() + claim_options(w),
        lambda: ["XCLAIM", key, group, consumer, w.one(0, 0, 5)] + ids() + claim_options(w),
        lambda: ["XAUTOCLAIM", key, group, consumer, w.one(0, 0, 5), w.one("0", "0-0", w.stream_id())] + w.maybe("COUNT", w.one(1, 2, 10)) + w.maybe("JUSTID"),
        lambda: ["XAUTOCLAIM", key, group, consumer, w.one(0, 0, 5), "0"],
        lambda: ["XPENDING", key, group], lambda: ["XINFO", "CONSUMERS", key, group], lambda: ["XRANGE", key, "-", "+"], lambda: ["XLEN", key],
        lambda: w.one(["COPY", key, w.key()] + w.maybe("REPLACE", chance=0.7), ["DEL", key], ["RENAME", key, w.key()], add(), add()),
    )()


def readgroup(w: Words, key, group, consumer) -> list:
    streams = [key] if w.rng.random() < 0.85 else [key, w.key()]
    return (["XREADGROUP", "GROUP", group, consumer] + w.maybe("COUNT", w.one(1, 2, 10), chance=0.5) + w.maybe("NOACK")
            + ["STREAMS"] + streams + [w.one(">", ">", ">", "0", w.stream_id()) for _ in streams])


def claim_options(w: Words) -> list:
    return (w.maybe("IDLE", w.one(0, 5, 1000)) + w.maybe("TIME", BASE_MS + w.one(-5, 0, 5), chance=0.2) + w.maybe("RETRYCOUNT", w.one(0, 5), chance=0.2)
            + w.maybe("FORCE", chance=0.5) + w.maybe("JUSTID", chance=0.3) + w.maybe("LASTID", w.stream_id(), chance=0.2))


def hll(w: Words) -> list:
    key = w.key()
    return w.one(
        lambda: ["PFADD", key] + w.some(w.member, 5), lambda: ["PFADD", key], lambda: ["PFMERGE", w.key()] + w.some(w.key),
        lambda: ["PFCOUNT", key], lambda: ["PFCOUNT", key, w.key()], lambda: ["PFDEBUG", "TODENSE", key], lambda: ["PFDEBUG", "GETREG", key],
        lambda: ["PFMERGE", w.key()], lambda: ["SET", key, w.value()], lambda: ["GETEX", key] + w.expiry("PERSIST"),
    )()


def blocking(w: Words) -> list:
    """Commands that wait if there is nothing, without an end: the harness lets go of them."""
    side, other = w.one("LEFT", "RIGHT"), w.one("LEFT", "RIGHT")
    lists = lambda: w.key("list")
    zsets = lambda: w.key("zset")
    command = w.one(
        lambda: ["BLPOP"] + w.some(lists, 2) + [0], lambda: ["BRPOP"] + w.some(lists, 2) + [0],
        lambda: ["BRPOPLPUSH", lists(), lists(), 0], lambda: ["BLMOVE", lists(), lists(), side, other, 0],
        lambda: ["BLMPOP", 0] + w.numkeys("list") + [side] + w.maybe("COUNT", w.one(1, 2, 10), chance=0.5),
        lambda: ["BZPOPMIN"] + w.some(zsets, 2) + [0], lambda: ["BZPOPMAX"] + w.some(zsets, 2) + [0],
        lambda: ["BZMPOP", 0] + w.numkeys("zset") + [w.one("MIN", "MAX")] + w.maybe("COUNT", w.one(1, 2, 10), chance=0.5),
        lambda: ["XREADGROUP", "GROUP", w.one("g", "k"), w.one("c", "d", "e")] + w.maybe("NOACK") + ["BLOCK", 0, "STREAMS", w.key("stream"), ">"],
    )()
    return command


FAMILIES = {
    "keys": keys, "string": string, "bits": bits, "hash": hash_, "list": list_, "set": set_, "zset": zset, "geo": geo, "stream": stream, "hll": hll,
}


def beginning(family: str, w: Words) -> list[list]:
    """Commands with which a sequence about this kind of value often begins, so that what follows meets something."""
    key, group, consumer = w.key(), "g", w.one("c", "d")
    if family == "stream":
        steps = [["XADD", key, "*", "f", w.value()] for _ in range(w.one(1, 2, 4))]
        return steps + [["XGROUP", "CREATE", key, group, "0"], ["XREADGROUP", "GROUP", group, consumer] + w.maybe("COUNT", 2, chance=0.5) + ["STREAMS", key, ">"]]
    if family == "hash":
        fields = w.rng.sample(["a", "b", "c"], w.one(1, 2, 3))
        steps = [["HSET", key] + [word for field in fields for word in (field, w.value())]]
        if w.rng.random() < 0.7:
            steps.append(["HPEXPIRE", key, w.one(1, 5, 10), "FIELDS", 1, fields[0]])
        if w.rng.random() < 0.3:
            steps.append(["PEXPIRE", key, w.one(5, 100_000)])
        return steps + ([["@clock", 10]] if w.rng.random() < 0.5 else [])
    makes = {
        "string": lambda: ["SET", key, w.value()] + w.maybe("PX", w.one(1, 5, 1000)), "bits": lambda: ["SETBIT", key, 7, 1],
        "list": lambda: ["RPUSH", key, "a", "b", "c", "1"], "set": lambda: ["SADD", key] + w.one(["1", "2"], ["a", "b", "c", "1"]),
        "zset": lambda: ["ZADD", key, 1, "a", 2, "b", 2, "c"], "geo": lambda: ["GEOADD", key, "13.3", "38.1", "a", "15.0", "37.5", "b"],
        "hll": lambda: ["PFADD", key, "a", "b"], "keys": lambda: ["SET", "s1", w.value(), "PX", w.one(1, 5, 1000)],
    }
    return [makes[family]()] + ([["PEXPIRE", key, w.one(1, 5, 1000)]] if w.rng.random() < 0.2 else [])
