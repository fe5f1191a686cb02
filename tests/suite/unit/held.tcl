# In sync mode a reply that tells of a write leaves when the log has acknowledged the write.

source $::env(SUITE_SUPPORT)/durability.tcl

# The ones that every way to connect must get right.
proc test_core {with} {
    test "SET is held until the log acknowledges it ($with)" {
        assert_held OK {set key value}
        assert_equal value [r get key]
    }

    test "EXEC with writes is held, its queueing is not ($with)" {
        set client [valkey_deferring_client]
        while_frozen {
            $client multi
            $client set key 1
            assert_equal OK [read_reply $client]
            assert_equal QUEUED [read_reply $client]
            $client exec
            wait_for_held 1
            assert_silent $client
        }
        assert_equal OK [read_reply $client]
        $client close
    }

    test "A pipeline is answered in order, nothing before the write that comes first ($with)" {
        set client [valkey_deferring_client]
        r set number 0
        while_frozen {
            $client write [format_command incr number][format_command ping][format_command incr number]
            $client flush
            wait_for_held 1
            assert_silent $client
        }
        assert_equal {1 PONG 2} [list [read_reply $client] [read_reply $client] [read_reply $client]]
        $client close
    }

    test "What comes before a write in a pipeline is held with it at most, and never reordered ($with)" {
        set client [valkey_deferring_client]
        while_frozen {
            $client write [format_command ping first][format_command set key 1][format_command ping last]
            $client flush
            wait_for_held 1
        }
        assert_equal {first OK last} [list [read_reply $client] [read_reply $client] [read_reply $client]]
        $client close
    }

    test "A connection with 1,000 requests in flight is answered in order, no write early ($with)" {
        set client [valkey_deferring_client]
        r del count
        log_service LOG.DEBUG DELAY-ACKS $::shard 5
        set expected {}
        for {set i 1} {$i <= 200} {incr i} {
            $client write [format_command incr count]
            lappend expected $i
            foreach other {a b c d} {
                $client write [format_command echo $other$i]
                lappend expected $other$i
            }
            $client flush
        }
        set replies {}
        foreach _ $expected {lappend replies [read_reply $client]}
        log_service LOG.DEBUG RESUME-ACKS $::shard
        assert_equal $expected $replies
        assert_equal 200 [r get count]
        $client close
    }

    test "Replies of more than 1 MB behind a write are held ($with)" {
        set value [string repeat x 300000]
        r set present $value
        set client [valkey_deferring_client]
        while_frozen {
            $client set key 1
            foreach _ {1 2 3 4 5 6} {$client get present}
            wait_for_held 1
            assert_silent $client
        }
        assert_equal OK [read_reply $client]
        foreach _ {1 2 3 4 5 6} {assert_equal $value [read_reply $client]}
        $client close
    }

    test "A value of 10 MB is held, and read back whole ($with)" {
        set value [string repeat x 10000000]
        assert_held OK [list set large $value]
        set client [valkey_deferring_client]
        while_frozen {
            $client append large y
            $client get large
            wait_for_held 1
            assert_silent $client
        }
        assert_equal 10000001 [read_reply $client]
        assert_equal ${value}y [read_reply $client]
        $client close
        r del large
    }

    test "200 clients are held at once ($with)" {
        set clients {}
        for {set i 0} {$i < 200} {incr i} {lappend clients [valkey_deferring_client]}
        r del counter
        while_frozen {
            foreach client $clients {$client incr counter}
            wait_for_held 200
            foreach client [lrange $clients 0 9] {assert_silent $client}
        }
        set replies {}
        foreach client $clients {
            lappend replies [read_reply $client]
            $client close
        }
        set expected {}
        for {set i 1} {$i <= 200} {incr i} {lappend expected $i}
        assert_equal $expected [lsort -integer $replies]
    }

    test "A client that leaves while it is held is forgotten ($with)" {
        while_frozen {
            set clients {}
            for {set i 0} {$i < 20} {incr i} {lappend clients [dirty_key gone$i]}
            foreach client $clients {$client close}
            wait_for_held 0
        }
        wait_until_durable
        assert_equal dirty [r get gone19]
    }
}

# The same for a way to connect that the framework's own client does not know.
proc assert_cli_held {args} {
    set output [tmpfile cli-reply]
    while_frozen {
        exec $::VALKEY_CLI_BIN {*}$args set by-cli 1 > $output 2>@1 &
        wait_for_held 1
        assert_equal PONG [r ping]
        assert_equal {} [exec cat $output]
    }
    wait_for_condition 500 10 {[exec cat $output] eq "OK"} else {
        fail "the held client is not answered: [exec cat $output]"
    }
    wait_for_held 0
}

durable_server {} {
    test_core "unix socket and TCP"

    # Name, what stands there before, the command, its reply.
    foreach {name before command expected} {
        "string"         {}                               {append key abc}                          3
        "string, number" {}                               {incrby key 5}                            5
        "expiry"         {set key 1}                      {expire key 1000}                         1
        "deletion"       {set key 1}                      {del key}                                 1
        "list"           {}                               {rpush key a b}                           2
        "list move"      {rpush key a}                    {lmove key other left right}              a
        "hash"           {}                               {hset key field value}                    1
        "set"            {}                               {sadd key member}                         1
        "set, random"    {sadd key member}                {spop key}                                member
        "sorted set"     {}                               {zadd key 1 member}                       1
        "stream"         {}                               {xadd key 1-1 field value}                1-1
        "stream group"   {xadd key 1-1 field value}       {xgroup create key group 0}               OK
        "hyperloglog"    {}                               {pfadd key element}                       1
        "bitmap"         {}                               {setbit key 7 1}                          0
        "geo"            {}                               {geoadd key 13.361389 38.115556 Palermo}  1
        "rename"         {set key 1}                      {rename key other}                        OK
        "copy"           {set key 1}                      {copy key other}                          1
        "database"       {set key 1}                      {move key 10}                             1
    } {
        test "A write is held: $name" {
            r flushall
            if {$before ne {}} {r {*}$before}
            assert_held $expected $command
        }
    }

    test "A write is held: sorted set into another, stored results" {
        r del a b result
        r sadd a 1 2
        r sadd b 2 3
        assert_held 1 {sinterstore result a b}
        r rpush numbers 3 1 2
        assert_held 3 {sort numbers store result}
    }

    test "A write is held: RESTORE" {
        r set key value
        set dumped [r dump key]
        assert_held OK [list restore restored 0 $dumped]
    }

    test "A script that writes is held, with its keys declared or not" {
        assert_held OK {eval {return redis.call('set', KEYS[1], 'v')} 1 declared}
        assert_held OK {eval {return redis.call('set', 'undeclared', 'v')} 0}
        set sha [r script load {return redis.call('incr', KEYS[1])}]
        r del by-sha
        assert_held 1 [list evalsha $sha 1 by-sha]
    }

    test "What a script wrote to an undeclared key is dirty for others" {
        while_frozen {
            set writer [valkey_deferring_client]
            $writer eval {return redis.call('set', 'hidden', 'v')} 0
            wait_for_held 1
            set reader [valkey_deferring_client]
            $reader get hidden
            wait_for_held 2
            assert_silent $reader
        }
        assert_equal OK [read_reply $writer]
        assert_equal v [read_reply $reader]
        $writer close
        $reader close
    }

    test "A script that fails after its first write is held" {
        assert_held {*no good*} {eval {redis.call('set', KEYS[1], 'v'); error('no good')} 1 half}
        assert_equal v [r get half]
    }

    test "A function that writes is held" {
        r function load replace {#!lua name=lib
            redis.register_function('put', function(keys, args) return redis.call('set', keys[1], args[1]) end)
        }
        assert_held OK {fcall put 1 key value}
    }

    # The command that waits, the one that serves it, their replies.
    foreach {command serve served server_reply} {
        {blpop queue 0}                                     {rpush queue a}         {queue a}           1
        {blmove queue other left right 0}                   {rpush queue a}         a                   1
        {bzpopmin queue 0}                                  {zadd queue 1 a}        {queue a 1}         1
        {xread block 0 streams queue $}                     {xadd queue 1-1 f v}    {{queue {{1-1 {f v}}}}}  1-1
        {xreadgroup group g c block 0 streams queue >}      {xadd queue 1-1 f v}    {{queue {{1-1 {f v}}}}}  1-1
    } {
        test "[lindex $command 0]: waiting is not held; being served is, and so is who served" {
            r del queue other
            if {[lindex $command 0] eq "xreadgroup"} {r xgroup create queue g $ mkstream}
            set waiter [valkey_deferring_client]
            set writer [valkey_deferring_client]
            while_frozen {
                $waiter {*}$command
                wait_for_blocked_client
                assert_equal 0 [figure held_clients]
                $writer {*}$serve
                wait_for_held 2
                assert_silent $waiter
                assert_silent $writer
            }
            assert_equal $served [read_reply $waiter]
            assert_equal $server_reply [read_reply $writer]
            $waiter close
            $writer close
        }
    }

    test "A client that leaves while it waits in BLPOP takes nothing" {
        r del list
        set popper [valkey_deferring_client]
        $popper blpop list 0
        wait_for_blocked_client
        $popper close
        wait_for_blocked_clients_count 0
        assert_equal 1 [r rpush list element]
        assert_equal element [r lindex list 0]
    }

    foreach {name command expected} {
        "FLUSHALL"        {flushall}                                                                OK
        "FLUSHDB"         {flushdb}                                                                 OK
        "SWAPDB"          {swapdb 9 10}                                                             OK
        "FUNCTION LOAD"   {function load replace "#!lua name=other\nredis.register_function('f', function() return 1 end)"} other
        "FUNCTION DELETE" {function delete other}                                                   OK
        "FUNCTION FLUSH"  {function flush}                                                          OK
    } {
        test "$name is held, and reads of any key after it" {
            r mset present 1 untouched 1
            if {$name eq "FUNCTION DELETE"} {
                r function load replace "#!lua name=other\nredis.register_function('f', function() return 1 end)"
            }
            set writer [valkey_deferring_client]
            set reader [valkey_deferring_client]
            while_frozen {
                $writer {*}$command
                wait_for_held 1
                $reader get untouched
                wait_for_held 2
                assert_silent $writer
                assert_silent $reader
            }
            assert_equal $expected [read_reply $writer]
            read_reply $reader
            wait_for_held 0
            $writer close
            $reader close
        }
    }

    test "In RESP3 replies are held and unchanged" {
        set client [valkey_deferring_client]
        $client hello 3
        read_reply $client
        r del hash
        while_frozen {
            $client hset hash field value
            $client hgetall hash
            wait_for_held 1
            assert_silent $client
        }
        assert_equal 1 [read_reply $client]
        assert_equal {field value} [read_reply $client]
        $client close
    }

    test "HELLO and SELECT while held keep their place" {
        set client [valkey_deferring_client]
        while_frozen {
            $client set key 1
            $client select 10
            $client hello 3
            wait_for_held 1
            assert_silent $client
        }
        assert_equal OK [read_reply $client]
        assert_equal OK [read_reply $client]
        assert_match *proto* [read_reply $client]
        $client close
    }

    test "RESET and SUBSCRIBE while held, and a message that comes, keep their place" {
        set client [valkey_deferring_client]
        while_frozen {
            $client set key 1
            $client reset
            $client subscribe channel
            wait_for_held 1
            wait_for_condition 500 10 {[r publish channel message] == 1} else {
                fail "the client does not subscribe"
            }
            assert_silent $client
        }
        foreach expected {OK RESET {subscribe channel 1} {message channel message}} {
            assert_equal $expected [read_reply $client]
        }
        $client close
    }

    test "A client that piles up more held replies than its output buffer may hold is closed" {
        r del long
        r rpush long {*}[lrepeat 1000 [string repeat x 1000]]
        r config set client-output-buffer-limit {normal 5000000 0 0}
        set client [valkey_deferring_client]
        while_frozen {
            $client set key 1
            for {set i 0} {$i < 20} {incr i} {$client lrange long 0 -1}
            assert_match {*I/O error*} [read_any_reply $client]
            wait_for_held 0
        }
        r config set client-output-buffer-limit {normal 0 0 0}
        $client close
    }

    test "QUIT while held: the held reply comes, then the end" {
        set client [valkey_deferring_client]
        while_frozen {
            $client set key before-quit
            wait_for_held 1
            $client quit
            assert_silent $client
        }
        assert_equal OK [read_reply $client]
        assert_equal OK [read_reply $client]
        assert_match {*I/O error*} [read_any_reply $client]
        wait_for_held 0
        assert_equal before-quit [r get key]
        $client close
    }

    test "CLIENT KILL of a held client: no reply, nothing left behind" {
        set client [valkey_deferring_client]
        $client client id
        set id [read_reply $client]
        while_frozen {
            $client set key killed
            wait_for_held 1
            assert_equal 1 [r client kill id $id]
            wait_for_held 0
            assert_match {*I/O error*} [read_any_reply $client]
        }
        wait_until_durable
        assert_equal killed [r get key]
        $client close
    }

    test "No held reply leaves while a script is busy" {
        r config set busy-reply-threshold 10
        set busy [valkey_deferring_client]
        while_frozen {
            set writer [dirty_key key]
            $busy eval {while true do end} 0
            wait_for_condition 500 10 {[catch {r ping}]} else {
                fail "the script does not run"
            }
            assert {![is_readable $writer 50]}
            r script kill
            assert_match {*killed*} [read_any_reply $busy]
            assert_silent $writer
        }
        assert_equal OK [read_reply $writer]
        $writer close
        $busy close
    }

    test "A client that wants no replies dirties its keys all the same" {
        set silent [valkey_deferring_client]
        $silent client reply off
        set reader [valkey_deferring_client]
        while_frozen {
            $silent set quiet 1
            wait_for_condition 500 10 {[figure dirty_keys] == 1} else {
                fail "the key is not dirty"
            }
            set held [figure held_clients]
            $reader get quiet
            wait_for_held [expr {$held + 1}]
            assert_silent $reader
        }
        assert_equal 1 [read_reply $reader]
        $silent close
        $reader close
        wait_for_held 0
    }

    test "A client of a unix socket is held" {
        assert_cli_held -s [srv 0 unixsocket]
    }

    test "Nothing is left behind" {
        wait_until_durable
        foreach figure {held_clients dirty_keys waiting_groups pending_bytes lag_ms} {
            assert_equal 0 [figure $figure]
        }
        assert_equal {} [figure last_error]
    }
}

durable_server {server {io-threads 4 io-threads-always-active yes}} {
    test_core "I/O threads"
}

durable_server {server {unixsocket {""}}} {
    test_core "TCP only"
}

set tls_directory [file normalize [tmpdir tls]]
exec openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost \
    -keyout $tls_directory/key.pem -out $tls_directory/certificate.pem 2>@1
set tls_port [find_available_port $::baseport $::portcount]

durable_server [list server [list tls-port $tls_port tls-auth-clients no tls-ca-cert-file $tls_directory/certificate.pem \
    tls-cert-file $tls_directory/certificate.pem tls-key-file $tls_directory/key.pem]] {
    test "A client of TLS is held" {
        assert_cli_held -p $tls_port --tls --cacert $tls_directory/certificate.pem --sni localhost
    }
}
