# Every write command that the server has: its reply is held, is byte for byte what a server without the module answers, and
# the keys that it changed are dirty, and no others.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/dataset.tcl

# The command on keys of the dataset `d`, and the keys that it makes dirty: all, if the command has none (a barrier).
# MSETEX counts as having none: the server does not tell modules its keys.
# %string, %functions: what DUMP and FUNCTION DUMP tell.
set writes {
    {append d:s x}                                              d:s
    {set d:s new}                                               d:s
    {set d:s new get}                                           d:s
    {setex d:s 1000 new}                                        d:s
    {psetex d:s 100000 new}                                     d:s
    {setnx target new}                                          target
    {setrange d:s 2 xyz}                                        d:s
    {setbit d:s 7 1}                                            d:s
    {bitfield d:s set u8 0 1}                                   d:s
    {bitop not target d:s}                                      target
    {getset d:s new}                                            d:s
    {getdel d:s}                                                d:s
    {getex d:s ex 1000}                                         d:s
    {delifeq d:s value}                                         d:s
    {incr d:n}                                                  d:n
    {incrby d:n 2}                                              d:n
    {incrbyfloat d:n 1.5}                                       d:n
    {decr d:n}                                                  d:n
    {decrby d:n 2}                                              d:n
    {mset d:s 1 target 2}                                       {d:s target}
    {msetnx target 1 target2 2}                                 {target target2}
    {msetex 2 d:s 1 target 2 ex 1000}                           {}
    {del d:s d:l missing}                                       {d:s d:l}
    {unlink d:s d:l}                                            {d:s d:l}
    {expire d:s 1000}                                           d:s
    {expire d:s -1}                                             d:s
    {expireat d:s 9999999999}                                   d:s
    {pexpire d:s 100000}                                        d:s
    {pexpireat d:s 9999999999999}                               d:s
    {persist d:t}                                               d:t
    {rename d:s target}                                         {d:s target}
    {renamenx d:s target}                                       {d:s target}
    {copy d:s target}                                           target
    {move d:s 10}                                               d:s
    {restore target 0 %string}                                  target
    {restore-asking target 0 %string}                           target
    {sort d:l alpha store target}                               target
    {lpush d:l x y}                                             d:l
    {lpushx d:l x}                                              d:l
    {rpush d:l x}                                               d:l
    {rpushx d:l x}                                              d:l
    {lpop d:l}                                                  d:l
    {lpop d:l 2}                                                d:l
    {rpop d:l}                                                  d:l
    {lrem d:l 0 a}                                              d:l
    {lset d:l 0 x}                                              d:l
    {ltrim d:l 0 0}                                             d:l
    {linsert d:l before b x}                                    d:l
    {lmove d:l target left right}                               {d:l target}
    {rpoplpush d:l target}                                      {d:l target}
    {lmpop 2 missing d:l left}                                  d:l
    {blpop missing d:l 0}                                       d:l
    {brpop d:l 0}                                               d:l
    {blmove d:l target left right 0}                            {d:l target}
    {brpoplpush d:l target 0}                                   {d:l target}
    {blmpop 0 2 missing d:l left count 2}                       d:l
    {hset d:h f1 9 f4 4}                                        d:h
    {hmset d:h f1 9}                                            d:h
    {hsetnx d:h f4 4}                                           d:h
    {hsetex d:h ex 1000 fields 1 f1 9}                          d:h
    {hdel d:h f1 f2}                                            d:h
    {hgetdel d:h fields 1 f1}                                   d:h
    {hgetex d:h ex 1000 fields 1 f1}                            d:h
    {hincrby d:h f1 2}                                          d:h
    {hincrbyfloat d:h f1 1.5}                                   d:h
    {hexpire d:h 1000 fields 1 f1}                              d:h
    {hexpireat d:h 9999999999 fields 1 f1}                      d:h
    {hpexpire d:h 100000 fields 1 f1}                           d:h
    {hpexpireat d:h 9999999999999 fields 1 f1}                  d:h
    {hpersist d:h fields 1 f3}                                  d:h
    {sadd d:set x}                                              d:set
    {srem d:set a}                                              d:set
    {spop d:set}                                                d:set
    {spop d:set 1}                                              d:set
    {smove d:set2 target a}                                     {d:set2 target}
    {sinterstore target d:set d:set2}                           target
    {sunionstore target d:set d:set2}                           target
    {sdiffstore target d:set2 d:set}                            target
    {zadd d:z 7 new}                                            d:z
    {zadd d:z incr 0.5 a}                                       d:z
    {zincrby d:z 2 a}                                           d:z
    {zrem d:z a}                                                d:z
    {zpopmin d:z}                                               d:z
    {zpopmin d:z 2}                                             d:z
    {zpopmax d:z}                                               d:z
    {zmpop 2 missing d:z min}                                   d:z
    {bzpopmin missing d:z 0}                                    d:z
    {bzpopmax d:z 0}                                            d:z
    {bzmpop 0 2 missing d:z min count 2}                        d:z
    {zremrangebyrank d:z 0 0}                                   d:z
    {zremrangebyscore d:z 1 2}                                  d:z
    {zremrangebylex d:z2 - +}                                   d:z2
    {zrangestore target d:z 0 -1}                               target
    {zunionstore target 2 d:z d:z2}                             target
    {zinterstore target 2 d:z d:z2}                             target
    {zdiffstore target 2 d:z d:z2}                              target
    {geoadd d:g 2.35 48.85 Paris}                               d:g
    {georadius d:g 15 37 300 km store target}                   target
    {georadiusbymember d:g Palermo 300 km storedist target}     target
    {geosearchstore target d:g frommember Palermo byradius 300 km}  target
    {pfadd d:p new}                                             d:p
    {pfmerge target d:p d:p2}                                   target
    {pfcount d:p2}                                              d:p2
    {pfdebug todense d:p}                                       d:p
    {xadd d:x 5-1 f v}                                          d:x
    {xadd target 5-1 f v}                                       target
    {xdel d:x 1-1}                                              d:x
    {xtrim d:x maxlen 1}                                        d:x
    {xsetid d:x 9-9}                                            d:x
    {xack d:x g 1-1}                                            d:x
    {xclaim d:x g other 0 1-1}                                  d:x
    {xautoclaim d:x g other 0 0}                                d:x
    {xreadgroup group g c streams d:x >}                        d:x
    {xreadgroup group g newcomer count 1 streams d:x >}         d:x
    {xgroup create d:x g2 0}                                    d:x
    {xgroup create target g2 0 mkstream}                        target
    {xgroup createconsumer d:x g newcomer}                      d:x
    {xgroup delconsumer d:x g c}                                d:x
    {xgroup setid d:x g 0}                                      d:x
    {xgroup destroy d:x g}                                      d:x
    {flushall}                                                  {}
    {flushall async}                                            {}
    {flushdb}                                                   {}
    {swapdb 9 10}                                               {}
    {function load "#!lua name=another\nserver.register_function('f', function() return 1 end)"}  {}
    {function delete lib}                                       {}
    {function flush}                                            {}
    {function restore %functions replace}                       {}
}

# Tested below by itself; refused without cluster mode.
set exempt {migrate cluster|flushslot durability.populate}

# Both servers hold the same. Sends the command to both and compares.
proc assert_held_like_plain {version command keys} {
    foreach level {-1 0} {fill_dataset [srv $level client] d untouched}
    set payloads [dict create %string [r dump d:s] %functions [r function dump]]
    set command [lmap word $command {expr {[dict exists $payloads $word] ? [dict get $payloads $word] : $word}}]
    set plain [protocol_client -1 $version]
    set durable [protocol_client 0 $version]
    send_marked $plain $command
    set expected [read_marked $plain]
    assert {![string match -* $expected]}
    set readers {}
    while_frozen {
        send_marked $durable $command
        wait_for_held 1
        assert_silent $durable
        set is_barrier [expr {$keys eq {}}]
        if {!$is_barrier} {assert_not_held 1 {exists untouched:s}}
        foreach key [expr {$is_barrier ? {untouched:s} : $keys}] {
            set reader [valkey_deferring_client]
            $reader exists $key
            wait_for_held [expr {[llength $readers] + 2}]
            assert_silent $reader
            lappend readers $reader
        }
    }
    assert_equal $expected [read_marked $durable]
    foreach reader $readers {
        read_reply $reader
        $reader close
    }
    assert_equal [debug_digest -1] [debug_digest]
    $plain close
    $durable close
}

start_server {overrides {save {}} tags {external:skip tls:skip}} {
    durable_server {} {
        test "Every write command of the server is among those that are tested here \[case 1\]" {
            assert_table_covers write $writes $exempt
        }

        foreach version {2 3} {
            foreach {command keys} $writes {
                set cases [expr {$keys eq {} ? "1, 18" : [llength $keys] > 1 || "target" in $keys ? "1, 19" : "1"}]
                set dirty [expr {$keys eq {} ? "everything" : $keys}]
                test "RESP$version: held, and dirty is $dirty: [string range $command 0 50] \[case $cases\]" {
                    assert_held_like_plain $version $command $keys
                }
            }
        }

        test "MIGRATE is held, and what it took away is dirty \[case 1, 19\]" {
            foreach level {-1 0} {fill_dataset [srv $level client] d untouched}
            r -1 flushall
            set migrating [valkey_deferring_client]
            set reader [valkey_deferring_client]
            while_frozen {
                $migrating migrate [srv -1 host] [srv -1 port] {} 9 5000 keys d:s d:l
                wait_for_held 1
                assert_silent $migrating
                assert_not_held 1 {exists untouched:s}
                $reader exists d:l
                wait_for_held 2
                assert_silent $reader
            }
            assert_equal OK [read_reply $migrating]
            assert_equal 0 [read_reply $reader]
            assert_equal 2 [r -1 dbsize]
            $migrating close
            $reader close
        }

        test "SCRIPT FLUSH and SCRIPT LOAD touch no data, and are not held \[case 18\]" {
            while_dirty dirty {
                assert_not_held [string repeat ? 40] {script load {return 1}}
                assert_not_held OK {script flush}
            }
        }

        test "Nothing is left behind by all the write commands \[case 1\]" {
            wait_until_durable
            foreach figure {held_clients dirty_keys waiting_groups pending_bytes lag_ms unlogged_writes} {
                assert_equal 0 [figure $figure]
            }
            assert_equal {} [figure last_error]
        }
    }
}
