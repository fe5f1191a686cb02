# A small dataset with a key of every type, and ways to compare replies byte by byte with those of a server without the module.

# Makes the keys NAME:s (string), NAME:n (number), NAME:t (one with an expiry), NAME:l (list) and so on.
set ::dataset {
    local function key(name) return KEYS[1] .. ':' .. name end
    local call = server.call
    call('set', key's', 'value')
    call('set', key'n', '5')
    call('set', key't', 'value', 'ex', 10000)
    call('rpush', key'l', 'a', 'b', 'c')
    call('hset', key'h', 'f1', '1', 'f2', '2', 'f3', '3')
    call('hexpire', key'h', 10000, 'fields', 1, 'f3')
    call('sadd', key'set', 'a')
    call('sadd', key'set2', 'a', 'b')
    call('zadd', key'z', 1, 'a', 2.5, 'b', 3, 'c')
    call('zadd', key'z2', 1, 'a')
    call('xadd', key'x', '1-1', 'f', 'v')
    call('xgroup', 'create', key'x', 'g', 0)
    call('xreadgroup', 'group', 'g', 'c', 'streams', key'x', '>')
    call('xadd', key'x', '2-1', 'f', 'v')
    call('pfadd', key'p', 'a', 'b')
    call('pfcount', key'p')
    call('pfadd', key'p2', 'c')
    call('geoadd', key'g', 13.361389, 38.115556, 'Palermo', 15.087269, 37.502669, 'Catania')
}

# The client's server has nothing but the datasets of those names.
proc fill_dataset {client args} {
    $client flushall
    foreach name $args {$client eval $::dataset 1 $name}
    $client function flush
    $client function load "#!lua name=lib\nserver.register_function('kept', function() return 'kept' end)"
}

# A deferring client of the server that many levels out that speaks that version of the protocol.
proc protocol_client {level version} {
    set client [valkey_deferring_client $level]
    $client hello $version
    read_reply $client
    return $client
}

# Sends a command, and one behind it that marks the end of its reply.
proc send_marked {client command} {
    $client write [format_command {*}$command][format_command echo end-of-reply]
    $client flush
}

# The bytes that answer the command that was sent by send_marked.
proc read_marked {client} {
    set channel [$client channel]
    set marker "\$12\r\nend-of-reply\r\n"
    set reply {}
    fconfigure $channel -blocking 0
    while {[string range $reply end-[expr {[string length $marker] - 1}] end] ne $marker} {
        assert {[is_readable $client 5000]}
        append reply [read $channel]
        assert {![eof $channel]}
    }
    fconfigure $channel -blocking 1
    string range $reply 0 end-[string length $marker]
}

# All commands of the server with that flag, subcommands included, by their full names.
proc commands_with_flag {flag} {
    set found {}
    set rest [r command]
    while {$rest ne {}} {
        set rest [lassign $rest entry]
        if {$flag in [lindex $entry 2]} {lappend found [lindex $entry 0]}
        lappend rest {*}[lindex $entry 9]
    }
    lsort $found
}

# Fails if the server has a command with that flag that is neither in the table nor among the exempt.
proc assert_table_covers {flag table exempt} {
    set known $exempt
    foreach {command _} $table {
        set name [lindex $command 0]
        lappend known $name $name|[lindex $command 1]
    }
    set missing [lmap name [commands_with_flag $flag] {
        if {$name in $known} continue
        set name
    }]
    assert_equal {} $missing
}
