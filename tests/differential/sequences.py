"""What clients do, drawn from a seed: pipelines of any commands, cut anywhere, half-closes, kills, and how the log is meanwhile."""

import random
from dataclasses import dataclass, field

CLIENTS = 3
KEYS = ["k1", "k2", "k3"]
CHANNELS = ["c1", "c2", "__keyspace@0__:k1", "__keyspace@0__:k2"]
# No message has a name that two of them match: in which order they would come depends on the server's memory.
PATTERNS = ["c*", "__keyevent@*"]
LIBRARY = """#!lua name=library
server.register_function('put', function(keys, args) return server.call('SET', keys[1], args[1]) end)
server.register_function{function_name='peek', callback=function(keys) return server.call('GET', keys[1]) end, flags={'no-writes'}}
"""
# When keys expire whose time to live is looked at: never.
FAR_S = 33177117420


@dataclass
class Action:
    """`what` is "send", "half-close", "close", "freeze" or "resume"."""

    what: str
    client: int = -1
    # Commands, as lists of arguments, or raw bytes. "{id0}" stands for the id of client 0.
    commands: list = field(default_factory=list)
    # How much of what is to be sent is sent now; the rest goes before the client's next action.
    share: float = 1.0

    def shown(self) -> str:
        words = [" ".join(map(str, command)) if isinstance(command, list) else repr(command)[:80] for command in self.commands]
        cut = f" (the first {self.share:.0%})" if self.share < 1 else ""
        who = f" {self.client}" if self.client >= 0 else ""
        return f"{self.what}{who}{cut}: " + "; ".join(words) if words else self.what + who


# Each line is a command. Words: K a key, V a value, N a small number, C a channel, P a pattern, M a member, I the id of a client.
DATA = """
SET K V|SET K V GET|SET K V NX|SET K V XX|GET K|GETSET K V|GETDEL K|APPEND K V|INCR K|INCRBY K N|DECR K|INCRBYFLOAT K 1.5|STRLEN K
SETRANGE K N V|GETRANGE K 0 N|MSET K V K V|MGET K K|MSETNX K V K V|SETBIT K N 1|BITCOUNT K|BITFIELD K SET u8 0 N GET u8 0|GETEX K PERSIST
BITFIELD_RO K GET u8 0|SETNX K V|SET K V PXAT 33177117420000|SUBSTR K 0 N|LCS K K|BITPOS K 1|BITOP AND K K K
LPUSH K M M|RPUSH K M|LPOP K|RPOP K 2|LRANGE K 0 -1|LLEN K|LINDEX K 0|LSET K 0 V|LINSERT K BEFORE M V|LREM K 0 M|LTRIM K 0 2
LMOVE K K LEFT RIGHT|RPOPLPUSH K K|LPOS K M|LMPOP 2 K K LEFT|LPUSHX K V
HSET K M V M V|HGET K M|HGETALL K|HDEL K M|HINCRBY K M N|HEXISTS K M|HLEN K|HMGET K M M|HKEYS K|HVALS K|HSETNX K M V|HSTRLEN K M
HEXPIREAT K 33177117420 FIELDS 1 M|HEXPIRETIME K FIELDS 1 M|HPERSIST K FIELDS 1 M|HRANDFIELD K 0
SADD K M M|SREM K M|SISMEMBER K M|SMISMEMBER K M M|SCARD K|SMOVE K K M|SINTERCARD 2 K K|SMEMBERS K|SINTER K K
ZADD K N M N M|ZADD K XX CH N M|ZINCRBY K N M|ZRANGE K 0 -1 WITHSCORES|ZRANGEBYSCORE K -inf +inf|ZSCORE K M|ZMSCORE K M M|ZREM K M|ZCARD K
ZRANK K M WITHSCORE|ZPOPMIN K|ZPOPMAX K 2|ZUNIONSTORE K 2 K K|ZCOUNT K 0 N|ZRANGESTORE K K 0 -1|ZMPOP 1 K MIN|ZREMRANGEBYRANK K 0 0|ZINTERSTORE K 1 K
XADD K S f V|XADD K NOMKSTREAM S f V|XLEN K|XRANGE K - +|XREVRANGE K + - COUNT 1|XREAD COUNT 2 STREAMS K 0|XGROUP CREATE K g 0 MKSTREAM
XREADGROUP GROUP g M COUNT 1 STREAMS K >|XREADGROUP GROUP g M STREAMS K 0|XACK K g 1-1|XDEL K 1-1|XTRIM K MAXLEN 2|XPENDING K g|XSETID K 99-1
XGROUP CREATECONSUMER K g M|XGROUP DELCONSUMER K g M|XGROUP DESTROY K g|XGROUP SETID K g 0
GEOADD K 13.4 52.5 M|GEODIST K M M|GEOPOS K M|PFADD K M M|PFCOUNT K|PFMERGE K K
DEL K K|UNLINK K|EXISTS K K|TYPE K|RENAME K K|RENAMENX K K|COPY K K REPLACE|COPY K K DB 1|MOVE K 1|TOUCH K|OBJECT ENCODING K|OBJECT REFCOUNT K
EXPIREAT K 33177117420|EXPIRETIME K|PEXPIREAT K 33177117420000 NX|PEXPIRETIME K|PERSIST K|EXPIRE K -1|SORT K ALPHA|SORT K BY nosort STORE K|DBSIZE
KEYS k1|FLUSHDB|FLUSHALL|SWAPDB 0 1|SCAN 0 MATCH k1 TYPE string COUNT 1000|DUMP K
EVAL E 1 K V|EVAL R 1 K|EVAL F 1 K V|EVALSHA 0000000000000000000000000000000000000000 0|FCALL put 1 K V|FCALL_RO peek 1 K|FCALL nothing 0
EVAL_RO R 1 K|FCALL_RO put 1 K V
"""
BLOCKING = """
BLPOP K K 0|BRPOP K 0|BLMOVE K K LEFT LEFT 0|BRPOPLPUSH K K 0|BLMPOP 0 1 K LEFT COUNT 2|BZPOPMIN K 0|BZPOPMAX K K 0|BZMPOP 0 1 K MAX
XREAD BLOCK 0 STREAMS K $|XREADGROUP GROUP g M BLOCK 0 STREAMS K >
"""
CONNECTION = """
MULTI|MULTI|EXEC|EXEC|EXEC|DISCARD|WATCH K|WATCH K K|UNWATCH
HELLO 2|HELLO 3|HELLO 3 SETNAME M|HELLO 3 AUTH default any SETNAME M|HELLO 2 AUTH user secret|HELLO 3 AUTH user wrong|HELLO 4|HELLO|HELLO 3 FOO
AUTH any|AUTH user secret|AUTH user wrong|AUTH default any|ACL WHOAMI|RESET|RESET|QUIT|SELECT 1|SELECT 0|SELECT 99|PING|PING M|ECHO V|TIME x
SUBSCRIBE C|SUBSCRIBE C|PSUBSCRIBE P|PSUBSCRIBE P|SSUBSCRIBE shard|UNSUBSCRIBE C|PUNSUBSCRIBE P|SUNSUBSCRIBE shard
PUBLISH c1 V|PUBLISH c2 V|SPUBLISH shard V|PUBSUB NUMSUB c1 c2|PUBSUB NUMPAT|PUBSUB CHANNELS c1|PUBSUB SHARDNUMSUB shard
CLIENT REPLY OFF|CLIENT REPLY SKIP|CLIENT REPLY ON|CLIENT REPLY ON|CLIENT SETNAME M|CLIENT GETNAME|CLIENT ID|CLIENT NO-EVICT ON|CLIENT NO-TOUCH ON
CLIENT SETINFO LIB-NAME M|CLIENT GETREDIR|CLIENT TRACKING ON|CLIENT TRACKING ON|CLIENT TRACKING ON BCAST|CLIENT TRACKING ON BCAST PREFIX k1
CLIENT TRACKING ON OPTIN|CLIENT TRACKING ON OPTOUT|CLIENT TRACKING ON NOLOOP|CLIENT TRACKING OFF|CLIENT CACHING YES|CLIENT CACHING NO
CLIENT TRACKING ON REDIRECT I|CLIENT TRACKINGINFO
CLIENT KILL ID I|CLIENT KILL ID I|CLIENT KILL ID I SKIPME no|CLIENT KILL 1.2.3.4:5|CLIENT UNBLOCK I|CLIENT UNBLOCK I|CLIENT UNBLOCK I ERROR
CLIENT PAUSE 100000 WRITE|CLIENT UNPAUSE|CLIENT UNPAUSE
FUNCTION DELETE nothing|SCRIPT EXISTS 0000000000000000000000000000000000000000|CONFIG GET maxmemory|ASKING|READONLY|OBJECT HELP
GET|GET K K|NONSENSE|CLIENT NONSENSE|SET K|LPUSH K|SUBSCRIBE|XADD K|EVAL|HELLO x|SELECT x|CLIENT KILL ID x|FCALL
"""
RAW = [b"PING\r\n", b"SET k1 inline\r\n", b"\r\n", b'SET k1 "not closed\r\n', b"*abc\r\n", b"*1\r\n!x\r\n", b"*1\r\n$-5\r\n", b"*-1\r\n",
       b"*1\r\n$999999999999\r\n", b"*99999999999\r\n", b"*0\r\n", b"GET k1\n", b"x" * 65537]
SCRIPTS = {
    "E": "redis.call('SET', KEYS[1], ARGV[1]) redis.call('PUBLISH', 'c1', ARGV[1]) return redis.call('GET', KEYS[1])",
    "R": "return {redis.call('TYPE', KEYS[1]), redis.call('EXISTS', KEYS[1])}",
    "F": "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('INCR', KEYS[1])",
}


def split(text: str) -> list[list[str]]:
    return [line.split() for row in text.strip().splitlines() for line in row.split("|")]


DATA, BLOCKING, CONNECTION = split(DATA), split(BLOCKING), split(CONNECTION)


class Sequence:
    """Draws one."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.entries = 0
        # Clients that may not want replies. A server closes them after QUIT, an error of protocol, or a kill by themselves once it has
        # written something to them, so never, unless a reply from before is still held. They say none of that.
        self.may_be_silent: set[int] = set()
        # Clients that may track keys. The module reads what XREADGROUP delivered again, and the server takes that for a read of theirs.
        self.may_track: set[int] = set()
        # What the keys hold mostly, so that commands meet their types.
        self.kinds = self.random.choice([DATA, self._of("SRLBG"), self._of("SHX"), self._of("LXZ"), self._of("SGIAM")])

    @staticmethod
    def _of(letters: str) -> list:
        return [command for command in DATA if command[0][0] in letters or command[0] in ("DEL", "EVAL", "FCALL")]

    def word(self, word: str) -> str:
        draw = self.random
        match word:
            case "K":
                return draw.choice(KEYS)
            case "V":
                return "v" * draw.choice([0, 1, 3, 20, 20, 1000, 20000]) or draw.choice(["7", "text"])
            case "M":
                return draw.choice(["a", "b", "1", "2"])
            case "N":
                return str(draw.randrange(9))
            case "C":
                return draw.choice(CHANNELS)
            case "P":
                return draw.choice(PATTERNS)
            case "I":
                return "{id%d}" % draw.randrange(CLIENTS)
            case "S":
                self.entries += 1
                return f"{self.entries}-1"
        return SCRIPTS.get(word, word)

    def command(self, client: int):
        draw = self.random.random()
        if draw < 0.02:
            return self.random.choice(RAW) if client not in self.may_be_silent else ["PING"]
        table = BLOCKING if draw < 0.08 else CONNECTION if draw < 0.45 else self.kinds
        first, *rest = self.random.choice(table)
        if [first, *rest[:1]] == ["CLIENT", "REPLY"]:
            self.may_be_silent.add(client)
        if [first, *rest[:1]] == ["CLIENT", "TRACKING"]:
            self.may_track.add(client)
        ends = first == "QUIT" or [first, *rest[:1]] == ["CLIENT", "KILL"]
        avoided = ends and client in self.may_be_silent or first == "XREADGROUP" and client in self.may_track
        if avoided or first == "SELECT" and self.random.random() < 0.5:
            return ["PING"]
        return [first, *map(self.word, rest)]

    def pipeline(self, client: int) -> list:
        length = self.random.choice([1, 1, 1, 2, 3, 5, 12])
        return [self.command(client) for _ in range(length)]

    def actions(self) -> list[Action]:
        draw = self.random
        actions = [Action("send", client, [["HELLO", "3"]]) for client in range(CLIENTS) if draw.random() < 0.5]
        is_frozen = False
        for _ in range(draw.randrange(8, 40)):
            if draw.random() < 0.15:
                is_frozen = not is_frozen
                actions.append(Action("freeze" if is_frozen else "resume"))
            client, chance = draw.randrange(CLIENTS), draw.random()
            if chance < 0.02:
                actions.append(Action("half-close", client))
            elif chance < 0.03:
                actions.append(Action("close", client))
            else:
                actions.append(Action("send", client, self.pipeline(client), draw.random() if chance < 0.15 else 1.0))
        # The end, with what may still wait: in any order, and before or after the log has it.
        ends = [Action("half-close", client) for client in draw.sample(range(CLIENTS), CLIENTS)]
        ends.insert(draw.randrange(CLIENTS + 1), Action("resume"))
        return actions + ends
