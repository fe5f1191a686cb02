# Every command that reads: held if its key is dirty, not held if it is clean, its reply byte for byte that of a server without
# the module. And those that see no data, which are never held.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/dataset.tcl

# The command on keys of the dataset `d`.
set reads {
    {get d:s} {strlen d:s} {getrange d:s 0 1} {substr d:s 0 1} {getbit d:s 1} {bitcount d:s} {bitpos d:s 1}
    {bitfield_ro d:s get u8 0} {lcs d:s d:t} {mget d:s d:n missing} {dump d:s} {memory usage d:s}
    {exists d:s} {exists missing d:s} {type d:s} {ttl d:s} {ttl d:t} {pttl d:s} {expiretime d:s} {pexpiretime d:s} {touch d:s}
    {object encoding d:s} {object refcount d:s} {object idletime d:s} {object freq d:s}
    {llen d:l} {lindex d:l 0} {lrange d:l 0 -1} {lpos d:l b} {sort_ro d:l alpha} {sort d:l alpha}
    {hget d:h f1} {hmget d:h f1 f9} {hgetall d:h} {hkeys d:h} {hvals d:h} {hlen d:h} {hexists d:h f1} {hstrlen d:h f1}
    {hrandfield d:h 9 withvalues} {hscan d:h 0} {httl d:h fields 1 f1} {hpttl d:h fields 1 f1}
    {hexpiretime d:h fields 1 f1} {hpexpiretime d:h fields 1 f1}
    {smembers d:set} {scard d:set} {sismember d:set a} {smismember d:set a b} {srandmember d:set} {sscan d:set 0}
    {sinter d:set2 d:set} {sintercard 2 d:set2 d:set} {sunion d:set d:set2} {sdiff d:set2 d:set}
    {zrange d:z 0 -1 withscores} {zrevrange d:z 0 -1 withscores} {zrangebyscore d:z 1 3} {zrevrangebyscore d:z 3 1}
    {zrangebylex d:z2 - +} {zrevrangebylex d:z2 + -} {zscore d:z b} {zmscore d:z a none} {zrank d:z b withscore} {zrevrank d:z b}
    {zcard d:z} {zcount d:z 1 2} {zlexcount d:z2 - +} {zrandmember d:z2 1 withscores} {zscan d:z 0}
    {zunion 2 d:z d:z2 withscores} {zinter 2 d:z d:z2} {zintercard 2 d:z d:z2} {zdiff 2 d:z d:z2 withscores}
    {geopos d:g Palermo none} {geodist d:g Palermo Catania} {geohash d:g Palermo}
    {geosearch d:g frommember Palermo byradius 300 km asc withdist} {georadius d:g 15 37 300 km asc}
    {georadius_ro d:g 15 37 300 km asc} {georadiusbymember d:g Palermo 300 km asc} {georadiusbymember_ro d:g Palermo 300 km asc}
    {pfcount d:p} {pfcount d:p d:p2}
    {xlen d:x} {xrange d:x - +} {xrevrange d:x + -} {xread streams d:x 0} {xread count 1 block 0 streams d:x 0}
    {xpending d:x g} {xinfo stream d:x} {xinfo groups d:x}
    {xreadgroup group g c streams d:x 0} {getex d:s} {bitfield d:s get u8 0} {watch d:s}
}
# Tested below, or in the unit scripts; LOLWUT has no data to show.
set exempt {
    dbsize keys scan randomkey eval_ro evalsha_ro fcall_ro lolwut clusterscan xinfo|consumers
}
# Their replies depend on time.
set not_compared {{object idletime d:s} {object freq d:s} {xpending d:x g} {memory usage d:s}}
# SORT's patterns name keys that only it knows. XREADGROUP of its own history counts as a change, but nothing of it is in the
# stream: it waits for what was written before.
set wait_for_everything {{xreadgroup group g c streams d:x 0} {sort_ro d:l alpha} {sort d:l alpha}}

# The keys that the command names. The last is the one to be dirty.
proc keys_of {command} {
    set keys {}
    foreach word $command {if {[string match d:* $word]} {lappend keys $word}}
    return $keys
}

start_server {overrides {save {}} tags {external:skip tls:skip}} {
    durable_server {} {
        test "Every reading command of the server is among those that are tested here \[case 13\]" {
            set table {}
            foreach command $reads {lappend table $command {}}
            assert_table_covers readonly $table $exempt
        }

        foreach version {2 3} {
            foreach command $reads {
                set name "RESP$version: held while its key is dirty, and only then: $command \[case 12, 13\]"
                if {[lindex $command 0] eq "watch"} {
                    set name "RESP$version: WATCH tells nothing, and is not held \[case 2\]"
                }
                if {$command in $wait_for_everything} {
                    set name "RESP$version: held while any key is dirty: $command \[case 13\]"
                }
                test $name {
                    foreach level {-1 0} {fill_dataset [srv $level client] d c}
                    if {[lindex $command 1] eq "freq"} {
                        foreach level {-1 0} {r $level config set maxmemory-policy allkeys-lfu}
                    }
                    set plain [protocol_client -1 $version]
                    send_marked $plain $command
                    set expected [read_marked $plain]
                    set on_clean [lmap word $command {string map {d: c:} $word}]
                    set writer [valkey_deferring_client]
                    set reader [protocol_client 0 $version]
                    set other [protocol_client 0 $version]
                    while_frozen {
                        # Any key can be made dirty so, and reads the same.
                        $writer persist d:t
                        wait_for_held 1
                        set key [lindex [keys_of $command] end]
                        $writer pexpire $key 100000000
                        wait_for_condition 500 10 {[figure dirty_keys] == [llength [lsort -unique [list d:t $key]]]} else {
                            fail "the key is not dirty"
                        }
                        if {$command ni $wait_for_everything} {
                            send_marked $other $on_clean
                            set not_held [read_marked $other]
                            assert_equal 1 [figure held_clients]
                            if {$command ni $not_compared} {assert_equal $expected [string map {c: d:} $not_held]}
                        }
                        send_marked $reader $command
                        if {[lindex $command 0] eq "watch"} {
                            assert_equal $expected [read_marked $reader]
                        } else {
                            wait_for_held 2
                            assert_silent $reader
                        }
                    }
                    if {[lindex $command 0] ne "watch"} {
                        set reply [read_marked $reader]
                        if {[lindex $command 0] in {ttl pttl expiretime pexpiretime}} {
                            assert_match :* $reply
                        } elseif {$command ni $not_compared} {
                            assert_equal $expected $reply
                        }
                    }
                    foreach client [list $plain $writer $reader $other] {$client close}
                    foreach level {-1 0} {r $level config set maxmemory-policy noeviction}
                }
            }
        }
    }
}

durable_server {} {
    r set clean value

    foreach {command expected} {
        {dbsize}                    {[0-9]*}
        {scan 0}                    {0 *}
        {keys *}                    *dirty*
        {keys no-key-has-this-name} {}
        {randomkey}                 *
        {sort_ro list by nosort get weight_*}   {}
    } {
        test "Held for everything that was written before: $command \[case 14\]" {
            r flushall
            r set clean value
            while_dirty dirty {
                set reader [valkey_deferring_client]
                $reader {*}$command
                wait_for_held 2
                assert_silent $reader
            }
            assert_match $expected [read_reply $reader]
            $reader close
        }
    }

    test "What looks at all keys is not held once everything is durable \[case 14\]" {
        r flushall
        r set clean value
        wait_until_durable
        while_frozen {
            assert_not_held 1 {dbsize}
            assert_not_held {0 clean} {scan 0}
            assert_not_held clean {keys *}
            assert_not_held clean {randomkey}
        }
    }

    foreach version {2 3} {
        test "What sees no data answers while nothing is acknowledged (RESP$version) \[case 4\]" {
            while_dirty dirty {
                set client [protocol_client 0 $version]
                foreach {command expected} {
                    {ping}                          PONG
                    {ping hello}                    hello
                    {echo hello}                    hello
                    {time}                          *
                    {info}                          *redis_version*
                    {info durability}               *durability_mode*
                    {role}                          master*
                    {lastsave}                      {[0-9]*}
                    {config get maxmemory}          {maxmemory *}
                    {config set maxmemory 0}        OK
                    {config resetstat}              OK
                    {config help}                   *
                    {client id}                     {[0-9]*}
                    {client info}                   *id=*
                    {client list}                   *id=*
                    {client getname}                {}
                    {client setname me}             OK
                    {client no-evict off}           OK
                    {client tracking off}           OK
                    {client kill addr 1.2.3.4:5}    0
                    {client unpause}                OK
                    {client help}                   *
                    {command count}                 {[0-9]*}
                    {command getkeys get a}         a
                    {command docs get}              *
                    {command info get}              *
                    {object help}                   *
                    {xinfo help}                    *
                    {xgroup help}                   *
                    {function help}                 *
                    {memory doctor}                 *
                    {memory stats}                  *
                    {latency latest}                *
                    {slowlog len}                   {[0-9]*}
                    {commandlog len slow}           {[0-9]*}
                    {acl whoami}                    default
                    {acl list}                      *
                    {module list}                   *durability*
                    {script exists 0}               0
                    {script load {return 1}}        *
                    {pubsub channels}               *
                    {publish nobody message}        0
                    {spublish nobody message}       0
                    {wait 0 0}                      *
                    {select 9}                      OK
                    {hello}                         *
                    {multi}                         OK
                    {ping}                          *
                    {discard}                       OK
                    {unwatch}                       OK
                    {no-such-command}               {ERR unknown command*}
                    {get}                           {ERR wrong number of arguments*}
                    {durability.status}             *role*
                    {durability.lag}                {[0-9]*}
                    {durability.mode}               sync
                    {durability.help}               *DURABILITY*
                    {subscribe channel}             {subscribe channel 1}
                    {psubscribe c*}                 {psubscribe c* 2}
                    {ssubscribe channel}            {ssubscribe channel 1}
                    {unsubscribe channel}           {unsubscribe channel 1}
                } {
                    $client {*}$command
                    assert_match $expected [read_any_reply $client] $command
                    assert_equal 1 [figure held_clients]
                }
                $client close
            }
        }
    }
}
