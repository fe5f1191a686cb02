#!lua flags=no-writes
-- Reads the whole of a database server in one canonical order. Run with the clock set back, so that what is expired but not yet
-- removed is read as well: it is there, and a later command of the stream may bring it to life.
-- ARGV: the number of databases, or that and the keys to read of the database given last.
-- Returns two lists that run side by side: what must be equal, and what may differ (encodings, times at which consumers were seen).
local hard, soft = {}, {}

local function pairs_of(flat)
    local map = {}
    for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
    return map
end

local read = {
    string = function(key) return server.call('GET', key) end,
    list = function(key) return server.call('LRANGE', key, 0, -1) end,
    zset = function(key) return server.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
    set = function(key)
        local members = server.call('SMEMBERS', key)
        table.sort(members)
        return members
    end,
    hash = function(key)
        local flat = server.call('HGETALL', key)
        local value, fields = pairs_of(flat), {}
        for field in pairs(value) do fields[#fields + 1] = field end
        table.sort(fields)
        local out = {}
        for _, field in ipairs(fields) do
            out[#out + 1] = { field, value[field], server.call('HPEXPIRETIME', key, 'FIELDS', 1, field)[1] }
        end
        return out
    end,
    stream = function(key)
        local info = pairs_of(server.call('XINFO', 'STREAM', key, 'FULL', 'COUNT', 0))
        local groups, seen = {}, { info['radix-tree-keys'], info['radix-tree-nodes'] }
        for _, flat in ipairs(info.groups) do
            local group = pairs_of(flat)
            local consumers = {}
            for _, flat in ipairs(group.consumers) do
                local consumer = pairs_of(flat)
                consumers[#consumers + 1] = { consumer.name, consumer['pel-count'], consumer.pending or consumer.pel }
                seen[#seen + 1] = { group.name, consumer.name, consumer['seen-time'], consumer['active-time'] }
            end
            groups[#groups + 1] = {
                'group', group.name, 'last-delivered-id', group['last-delivered-id'], 'entries-read', group['entries-read'] or 'nil',
                'lag', group.lag or 'nil', 'pel-count', group['pel-count'], 'pending', group.pending or group.pel,
                'consumers', consumers,
            }
        end
        return {
            'length', info.length, 'last-id', info['last-generated-id'], 'max-deleted-id', info['max-deleted-entry-id'],
            'entries-added', info['entries-added'], 'first-id', info['recorded-first-entry-id'], 'entries', info.entries,
            'groups', groups,
        }, seen
    end,
}

local function read_key(db, key)
    local kind = server.call('TYPE', key).ok
    local value, more = 'not read', nil
    if read[kind] then value, more = read[kind](key) end
    hard[#hard + 1] = { db, key, kind, server.call('PEXPIRETIME', key), value }
    soft[#soft + 1] = { server.call('OBJECT', 'ENCODING', key), more }
end

if #ARGV > 1 then
    local db = tonumber(ARGV[1])
    server.call('SELECT', db)
    for i = 2, #ARGV do read_key(db, ARGV[i]) end
    return { hard, soft }
end
for db = 0, tonumber(ARGV[1]) - 1 do
    server.call('SELECT', db)
    local keys = server.call('KEYS', '*')
    table.sort(keys)
    for _, key in ipairs(keys) do read_key(db, key) end
end
-- The indexes by which the server finds what expires.
hard[#hard + 1] = string.gsub(server.call('INFO', 'keyspace'), ',avg_ttl=%d+', '')
return { hard, soft }
