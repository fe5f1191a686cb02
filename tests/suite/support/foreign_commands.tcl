# Commands that no leader puts into its log, as somebody who has a token might append them: each with the name by which it is told, where
# that is not its first word. What would show that it had an effect is the same afterwards as before: see server_state.

set ::foreign_commands {
    {acl setuser evil on nopass +@all ~* &*} acl|setuser
    {acl deluser default} acl|deluser
    {acl load} acl|load
    {acl log reset} acl|log
    {config set maxclients 77} config|set
    {config set durability.mode off} config|set
    {config rewrite} config|rewrite
    {config resetstat} config|resetstat
    {replicaof no one} replicaof
    {replicaof 127.0.0.1 1} replicaof
    {slaveof no one} slaveof
    {failover} failover
    {failover abort} failover
    {shutdown} shutdown
    {shutdown nosave now} shutdown
    {debug sleep 2} debug
    {debug segfault} debug
    {debug set-active-expire 0} debug
    {debug populate 5} debug
    {debug reload} debug
    {debug replicate set key other} debug
    {module load /nonexistent.so} module|load
    {module unload durability} module|unload
    {migrate 127.0.0.1 1 key 0 1000} migrate
    {save} save
    {bgsave} bgsave
    {bgrewriteaof} bgrewriteaof
    {client kill type normal} client|kill
    {client pause 100000 all} client|pause
    {client reply off} client|reply
    {client import-source on} client|import-source
    {client no-touch on} client|no-touch
    {cluster meet 127.0.0.1 1} cluster|meet
    {cluster reset hard} cluster|reset
    {cluster flushslot 1} cluster|flushslot
    {cluster setslot 1 stable} cluster|setslot
    {cluster syncslots establish source 0123456789abcdef0123456789abcdef01234567 name 0123456789abcdef0123456789abcdef01234567 slotsrange 0 5} cluster|syncslots
    {cluster migrateslots slotsrange 0 5 node 0123456789abcdef0123456789abcdef01234567} cluster|migrateslots
    {eval {return server.call('set', 'key', 'other')} 0} eval
    {eval {while true do end} 0} eval
    {eval_ro {return 1} 0} eval_ro
    {evalsha 0000000000000000000000000000000000000000 0} evalsha
    {fcall f 0} fcall
    {script load {return 1}} script|load
    {script flush} script|flush
    {script kill} script|kill
    {function kill} function|kill
    {psync ? -1} psync
    {sync} sync
    {replconf ack 1} replconf
    {replconf listening-port 1} replconf
    {subscribe channel} subscribe
    {psubscribe *} psubscribe
    {monitor} monitor
    {auth secret} auth
    {hello 3} hello
    {reset} reset
    {quit} quit
    {discard} discard
    {wait 1 0} wait
    {waitaof 1 0 0} waitaof
    {slowlog reset} slowlog|reset
    {latency reset} latency|reset
    {pfselftest} pfselftest
}

# What they would change in a server, but for time and counters, as far as one tells that serves nobody.
proc server_state {client} {
    set state [list [getInfoProperty [$client info server] process_id]]
    lappend state [$client acl list] [regexp -all -inline {module:name=[a-z]+} [$client info modules]]
    foreach field {number_of_cached_scripts number_of_functions number_of_libraries} {
        lappend state [getInfoProperty [$client info memory] $field]
    }
    foreach setting {maxclients durability.mode save appendonly} {lappend state [$client config get $setting]}
    lappend state [getInfoProperty [$client info persistence] rdb_last_save_time]
    return $state
}
