# In sync mode a read waits for the writes that it saw, and for no others.

source $::env(SUITE_SUPPORT)/durability.tcl

durable_server {} {
    r set clean value
    r rpush clean-list a

    test "What sees no data answers while nothing is acknowledged" {
        while_dirty dirty {
            assert_not_held PONG {ping}
            assert_not_held *durability_mode* {info durability}
            assert_not_held {maxmemory *} {config get maxmemory}
            assert_not_held OK {config set maxmemory 0}
            assert_not_held {[0-9]*} {client id}
            assert_not_held {[0-9]*} {command count}
            assert_not_held *role* {durability.status}
            assert_not_held {[0-9]*} {durability.lag}
            assert_not_held sync {durability.mode}
            assert_not_held *DURABILITY* {durability.help}
            assert_not_held {subscribe channel 1} {subscribe channel}
            assert_not_held 0 {publish nobody message}
        }
    }

    test "Reads of clean keys answer while another key is dirty" {
        while_dirty dirty {
            assert_not_held value {get clean}
            assert_not_held {{} value} {mget missing clean}
            assert_not_held 1 {exists clean}
            assert_not_held string {type clean}
            assert_not_held a {lindex clean-list 0}
            assert_not_held value {eval_ro {return redis.call('get', KEYS[1])} 1 clean}
            assert_not_held value {eval {return redis.call('get', KEYS[1])} 1 clean}
        }
    }

    test "A read of a clean key takes less than 5 ms while the log acknowledges nothing" {
        while_dirty dirty {
            set reader [valkey_client]
            # The best of some: what is shown is that it does not wait, not that the machine is never busy.
            set best 1000000
            for {set i 0} {$i < 20} {incr i} {
                set started [clock microseconds]
                assert_equal value [$reader get clean]
                set best [expr {min($best, [clock microseconds] - $started)}]
            }
            $reader close
            assert_lessthan $best 5000
        }
    }

    test "EXEC that only read clean keys, DISCARD and a WATCH that failed are not held" {
        set reader [valkey_client]
        set watcher [valkey_client]
        $watcher watch watched
        r set watched changed
        while_dirty dirty {
            set client [valkey_deferring_client]
            foreach command {multi {get clean} exec} {$client {*}$command}
            assert_equal OK [read_reply $client]
            assert_equal QUEUED [read_reply $client]
            assert_equal value [read_reply $client]
            foreach command {multi {set clean other} discard} {$client {*}$command}
            foreach expected {OK QUEUED OK} {assert_equal $expected [read_reply $client]}
            $client close
            assert_equal OK [$watcher multi]
            assert_equal QUEUED [$watcher set clean other]
            assert_equal {} [$watcher exec]
            assert_equal value [$reader get clean]
        }
        $reader close
        $watcher close
    }

    foreach {name command expected} {
        "GET"                       {get dirty}                                             dirty
        "EXISTS"                    {exists dirty}                                          1
        "TYPE"                      {type dirty}                                            string
        "TTL"                       {ttl dirty}                                             -1
        "STRLEN"                    {strlen dirty}                                          5
        "OBJECT ENCODING"           {object encoding dirty}                                 embstr
        "MGET with one dirty key"   {mget clean dirty}                                      {value dirty}
        "a script that reads"       {eval_ro {return redis.call('get', KEYS[1])} 1 dirty}   dirty
        "SETNX that changed nothing" {setnx dirty other}                                    0
        "an error that tells its type" {lpush dirty element}                                WRONGTYPE*
        "DBSIZE"                    {dbsize}                                                *
        "SCAN"                      {scan 0}                                                *
        "KEYS"                      {keys dirty}                                            dirty
        "RANDOMKEY"                 {randomkey}                                             *
    } {
        test "Held while a key is dirty: $name" {
            while_dirty dirty {
                set reader [valkey_deferring_client]
                $reader {*}$command
                wait_for_held 2
                assert_silent $reader
            }
            assert_match $expected [read_any_reply $reader]
            $reader close
        }
    }

    test "EXEC that read a dirty key is held" {
        while_dirty dirty {
            set reader [valkey_deferring_client]
            foreach command {multi {get clean} {get dirty} exec} {$reader {*}$command}
            wait_for_held 2
        }
        foreach expected {OK QUEUED QUEUED {value dirty}} {assert_equal $expected [read_reply $reader]}
        $reader close
    }

    test "A delete that found nothing because of a delete that is not durable is held" {
        r set victim 1
        set clients [list [valkey_deferring_client] [valkey_deferring_client]]
        while_frozen {
            foreach client $clients held {1 2} {
                $client del victim
                wait_for_held $held
                assert_silent $client
            }
        }
        foreach client $clients expected {1 0} {
            assert_equal $expected [read_reply $client]
            $client close
        }
    }

    foreach {name before command keys} {
        "RENAME"      {set source 1}       {rename source target}                 {source target}
        "LMOVE"       {rpush source a}     {lmove source target left left}        {source target}
        "SMOVE"       {sadd source a}      {smove source target a}                {source target}
        "SUNIONSTORE" {sadd source a}      {sunionstore target source}            {target}
        "COPY"        {set source 1}       {copy source target}                   {target}
        "PFMERGE"     {pfadd source a}     {pfmerge target source}                {target}
        "BITOP"       {set source a}       {bitop not target source}              {target}
        "ZRANGESTORE" {zadd source 1 a}    {zrangestore target source 0 -1}       {target}
    } {
        test "$name makes dirty: $keys" {
            r del source target
            r {*}$before
            set writer [valkey_deferring_client]
            set readers {}
            while_frozen {
                $writer {*}$command
                set held 1
                wait_for_held $held
                foreach key $keys {
                    set reader [valkey_deferring_client]
                    $reader exists $key
                    wait_for_held [incr held]
                    assert_silent $reader
                    lappend readers $reader
                }
            }
            foreach client [list $writer {*}$readers] {
                read_reply $client
                $client close
            }
        }
    }

    test "A key that is dirtied again stays dirty when its older write becomes durable" {
        set writer [valkey_deferring_client]
        set reader [valkey_deferring_client]
        # The log acknowledges each write a while after it: the older one is through while the newer one is not.
        log_service LOG.DEBUG DELAY-ACKS $::shard 600
        $writer set twice 1
        wait_for_held 1
        after 300
        $writer set twice 2
        assert_equal OK [read_reply $writer]
        $reader get twice
        wait_for_held 2
        assert_silent $reader
        assert_equal OK [read_reply $writer]
        assert_equal 2 [read_reply $reader]
        log_service LOG.DEBUG RESUME-ACKS $::shard
        wait_for_held 0
        $writer close
        $reader close
    }

    test "A key is clean once its write is acknowledged" {
        assert_equal OK [r set later 1]
        assert_equal 0 [figure dirty_keys]
        while_dirty other {
            assert_not_held 1 {get later}
        }
    }

    test "A read that finds its key expired answers at once" {
        r debug set-active-expire 0
        r psetex short 20 value
        # Past its time; asking whether it is gone would remove it.
        after 30
        while_frozen {
            assert_not_held {} {get short}
        }
        r debug set-active-expire 1
    } {OK} {needs:debug}
}

durable_server {server {save {3600 1}}} {
    # There FLUSHALL saves an empty RDB, and the server counts its changes from zero.
    foreach command {{flushall} {eval {return redis.call('flushall')} 0}} {
        test "On a server that saves RDBs, [lindex $command 0] that empties the dataset is held, and so are reads after it" {
            r set key value
            set reader [valkey_deferring_client]
            assert_held OK $command {}
            assert_equal 0 [r dbsize]
            r set key value
            set flusher [valkey_deferring_client]
            while_frozen {
                $flusher {*}$command
                wait_for_held 1
                $reader get key
                wait_for_held 2
                assert_silent $reader
            }
            assert_equal OK [read_reply $flusher]
            assert_equal {} [read_reply $reader]
            $flusher close
            $reader close
        }
    }
}

durable_server {} {
    test "SORT by a pattern waits for keys that only the pattern names" {
        r rpush clean-list 1
        assert_held *dirty* {sort clean-list by nosort get weight_*} {set writer [dirty_key weight_1]}
        $writer close
    }

    test "A function is not seen before it is durable" {
        set loader [valkey_deferring_client]
        set caller [valkey_deferring_client]
        while_frozen {
            $loader function load {#!lua name=undurable
                server.register_function('undurable', function() return 'called' end)}
            wait_for_held 1
            $caller fcall undurable 0
            wait_for_held 2
            assert_silent $caller
        }
        assert_equal undurable [read_reply $loader]
        assert_equal called [read_reply $caller]
        $loader close
        $caller close
    }

    test "A key that was evicted is dirty" {
        r set victim [string repeat x 1000]
        wait_until_durable
        set writer [valkey_deferring_client]
        set reader [valkey_deferring_client]
        r config set maxmemory-policy allkeys-lru
        while_frozen {
            r config set maxmemory 1
            $writer set another 1
            wait_for_condition 500 10 {[figure dirty_keys] > 0} else {
                fail "nothing is dirty"
            }
            r config set maxmemory 0
            set before [figure held_clients]
            $reader exists victim
            wait_for_held [expr {$before + 1}]
            assert_silent $reader
        }
        assert_equal 0 [read_reply $reader]
        $writer close
        $reader close
    }
}
