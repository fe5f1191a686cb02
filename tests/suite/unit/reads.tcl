# In sync mode a read waits for the writes that it saw, and for no others: when a key is dirty, and when it is not any more.

source $::env(SUITE_SUPPORT)/durability.tcl

durable_server {} {
    r set clean value

    test "A read of a clean key takes less than 5 ms while the log acknowledges nothing \[case 12\]" {
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

    test "A delete that found nothing because of a delete that is not durable is held \[case 15\]" {
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

    test "A key that is dirtied again stays dirty when its older write becomes durable \[case 16\]" {
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

    test "A key is clean once its write is acknowledged \[case 12\]" {
        assert_equal OK [r set later 1]
        assert_equal 0 [figure dirty_keys]
        while_dirty other {
            assert_not_held 1 {get later}
        }
    }

    foreach {name command expected} {
        "SETNX on a key that is dirty"          {setnx dirty other}         0
        "SET NX on a key that is dirty"         {set dirty other nx}        {}
        "HSETNX on a dirty hash"                {hsetnx dirty-hash f other} 0
        "SADD of a member that is there"        {sadd dirty-set a}          0
        "EXPIRE that changes nothing"           {expire dirty 10 xx}        0
        "PERSIST without an expiry"             {persist dirty}             0
        "LPUSHX on a key that is dirty-deleted" {lpushx deleted a}          0
        "DEL of a key that is dirty-deleted"    {del deleted}               0
        "RENAMENX onto a key that is dirty"     {renamenx clean dirty}      0
        "COPY onto a key that is dirty"         {copy clean dirty}          0
        "SMOVE of a member that is not there"   {smove dirty-set clean-set none}  0
        "BLMPOP and the like on a wrong type"   {blmpop 0 1 dirty left}     WRONGTYPE*
        "INCR of what is no number"             {incr dirty}                {ERR value is not an integer*}
        "WRONGTYPE of a write"                  {lpush dirty element}       WRONGTYPE*
        "WRONGTYPE of a read"                   {lrange dirty 0 -1}         WRONGTYPE*
        "RENAME of a key that is dirty-deleted" {rename deleted target}     {ERR no such key}
        "LSET of a list that is dirty-deleted"  {lset deleted 0 x}          {ERR no such key}
        "XGROUP CREATE of a group that is there" {xgroup create dirty-stream g 0}  BUSYGROUP*
    } {
        test "Held like a read, as it changed nothing: $name \[case 15\]" {
            r flushall
            r set deleted 1
            r set clean value
            r sadd clean-set x
            set writer [valkey_deferring_client]
            set reader [valkey_deferring_client]
            while_frozen {
                $writer eval {
                    server.call('set', 'dirty', 'dirty')
                    server.call('del', 'deleted')
                    server.call('hset', 'dirty-hash', 'f', 'v')
                    server.call('sadd', 'dirty-set', 'a')
                    server.call('xgroup', 'create', 'dirty-stream', 'g', '0', 'mkstream')} 0
                wait_for_held 1
                set dirty [figure dirty_keys]
                $reader {*}$command
                wait_for_held 2
                assert_silent $reader
                assert_equal $dirty [figure dirty_keys]
                assert_not_held value {get clean}
            }
            read_reply $writer
            assert_match $expected [read_any_reply $reader]
            $writer close
            $reader close
        }
    }
}

durable_server {server {save {3600 1}}} {
    # There FLUSHALL saves an empty RDB, and the server counts its changes from zero.
    foreach command {{flushall} {eval {return redis.call('flushall')} 0}} {
        test "On a server that saves RDBs, [lindex $command 0] that empties the dataset is held, and so are reads after it \[case 18\]" {
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
    test "SORT by a pattern waits for keys that only the pattern names \[case 13\]" {
        r rpush clean-list 1
        assert_held *dirty* {sort clean-list by nosort get weight_*} {set writer [dirty_key weight_1]}
        $writer close
    }

    test "A function is not seen before it is durable \[case 18\]" {
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

    test "A key that was evicted is dirty \[case 21\]" {
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
