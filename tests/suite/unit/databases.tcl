# A key is dirty in its database: a key of the same name in another database is another key.

source $::env(SUITE_SUPPORT)/durability.tcl

# The key `name` of one database is dirty after `commands` (sent in that order on one connection that starts in database 9),
# and not that of another. The keys exist in all of the databases 9 to 12.
proc assert_dirty_in {dirty clean commands} {
    fill_databases
    set writer [valkey_deferring_client]
    set readers {}
    while_frozen {
        send_all $writer $commands
        wait_for_held 1
        foreach database $clean {
            set reader [valkey_client]
            $reader select $database
            $reader deferred 1
            $reader exists name
            assert_equal 1 [read_reply $reader]
            $reader close
        }
        assert_equal 1 [figure held_clients]
        foreach database $dirty {
            set reader [valkey_client]
            $reader select $database
            $reader deferred 1
            $reader exists name
            wait_for_held [expr {[llength $readers] + 2}]
            assert_silent $reader
            lappend readers $reader
        }
    }
    foreach command $commands {assert {![string match EXECABORT* [read_any_reply $writer]]}}
    foreach reader $readers {
        read_reply $reader
        $reader close
    }
    $writer close
}

proc fill_databases {} {
    r flushall
    foreach database {10 11 12 9} {
        r select $database
        r mset name $database moved $database
    }
}

durable_server {} {
    # In which databases, in which not, after which commands. The database of what a script writes, and of what leaves a
    # database, is not told apart: other databases may wait for it as well, so nothing is said of them.
    foreach {name dirty clean commands} {
        "a write" 9 {10 11} {{set name 1}}
        "after SELECT" 10 {9 11} {{select 10} {set name 1}}
        "after SELECT and back" 9 {10 11} {{select 10} {select 9} {set name 1}}
        "in MULTI" 9 {10 11} {multi {set name 1} exec}
        "after SELECT within MULTI" 10 {9 11} {multi {select 10} {set name 1} exec}
        "in two databases within MULTI" {9 10} {} {multi {set name 1} {select 10} {set name 1} exec}
        "MULTI that selects before the write and after it" 10 {9 11} {multi {select 10} {set name 1} {select 11} exec}
        "a script" 9 {} {{eval {return server.call('set', KEYS[1], 1)} 1 name}}
        "a script that selects" 10 {} {{eval {server.call('select', 10); return server.call('set', KEYS[1], 1)} 1 name}}
        "a script that selects, of an undeclared key" 10 {} {{eval {server.call('select', 10); return server.call('set', 'name', 1)} 0}}
        "a script that selects, and fails" 10 {} {{eval {server.call('select', 10); server.call('set', KEYS[1], 1); error('no')} 1 name}}
        "a write after a script that selected" 9 {10 11} {{eval {return server.call('select', 10)} 0} {set name 1}}
        "a script that selects within MULTI" 10 {} {multi {eval {server.call('select', 10); return server.call('set', KEYS[1], 1)} 1 name} exec}
        "SELECT, MULTI, and a script that selects" 11 {} {{select 10} multi {eval {server.call('select', 11); return server.call('set', KEYS[1], 1)} 1 name} exec}
        "a function" 9 {} {{fcall put 1 name}}
        "a function that selects" 10 {} {{fcall put_elsewhere 1 name}}
        "MOVE" {9 10} {} {{select 10} {del name} {select 9} {move name 10}}
        "MOVE back" {9 10} {} {{del name} {select 10} {move name 9}}
        "COPY ... DB" 11 {} {{copy name name db 11 replace}}
        "COPY ... DB after SELECT" 11 {} {{select 10} {copy name name db 11 replace}}
        "COPY from another name" 9 {} {{copy moved name replace}}
        "COPY ... DB within MULTI" 11 {} {multi {copy name name db 11 replace} exec}
        "COPY ... DB within a script" 11 {} {{eval {return server.call('copy', KEYS[1], KEYS[1], 'db', 11, 'replace')} 1 name}}
        "RESET" 0 {9 10} {reset {set name 1}}
        "FLUSHDB (everything waits)" {9 10 11} {} {{select 10} flushdb}
        "FLUSHALL (everything waits)" {9 10 11} {} {flushall}
        "SWAPDB (everything waits)" {9 10 11 12} {} {{swapdb 9 10}}
    } {
        set elsewhere [expr {$clean eq {} ? "" : ", and not in $clean"}]
        test "Dirty in $dirty$elsewhere: $name \[case 20\]" {
            r function load replace {#!lua name=lib
                server.register_function('put', function(keys) return server.call('set', keys[1], 1) end)
                server.register_function('put_elsewhere', function(keys)
                    server.call('select', 10)
                    return server.call('set', keys[1], 1)
                end)}
            assert_dirty_in $dirty $clean $commands
        }
    }

    # Reads: from database 9, while `name` is dirty in 10 only.
    foreach {name command expected} {
        "GET"                   {get name}                                              9
        "a write of a clean key that changes nothing"   {setnx name other}              0
    } {
        test "Not held, as its key is dirty in another database only: $name \[case 20\]" {
            fill_databases
            set writer [valkey_deferring_client]
            while_frozen {
                $writer select 10
                assert_equal OK [read_reply $writer]
                $writer set name 1
                wait_for_held 1
                assert_not_held $expected $command
            }
            assert_equal OK [read_reply $writer]
            $writer close
        }
    }

    foreach {name commands expected} {
        "GET after SELECT"          {{select 10} {get name}}                                {OK 1}
        "MULTI that selects"        {multi {select 10} {get name} exec}                     {OK QUEUED QUEUED {OK 1}}
        "a script that selects"     {{eval {server.call('select', 10); return server.call('get', KEYS[1])} 1 name}} 1
        "COPY ... DB that does nothing" {{copy name name db 10}}                            0
        "MOVE that does nothing"    {{move name 10}}                                        0
    } {
        test "Held, as its key is dirty in the database that it sees: $name \[case 20\]" {
            fill_databases
            set writer [valkey_deferring_client]
            set reader [valkey_deferring_client]
            while_frozen {
                $writer select 10
                assert_equal OK [read_reply $writer]
                $writer set name 1
                wait_for_held 1
                send_all $reader $commands
                wait_for_held 2
            }
            assert_equal OK [read_reply $writer]
            foreach reply $expected {assert_equal $reply [read_reply $reader]}
            $writer close
            $reader close
        }
    }

    test "What was dirty before SWAPDB is held by its new place \[case 18, 20\]" {
        fill_databases
        set writer [valkey_deferring_client]
        set reader [valkey_deferring_client]
        while_frozen {
            $writer select 10
            assert_equal OK [read_reply $writer]
            send_all $writer {{set name dirty} {swapdb 10 9}}
            wait_for_held 1
            $reader get name
            wait_for_held 2
            assert_silent $reader
        }
        assert_equal dirty [read_reply $reader]
        foreach _ {set swapdb} {assert_equal OK [read_reply $writer]}
        $writer close
        $reader close
    }

    test "A blocked client is served in its own database, and what it took is dirty there \[case 7, 20\]" {
        r flushall
        set waiter [valkey_deferring_client]
        set writer [valkey_deferring_client]
        set reader [valkey_deferring_client]
        $waiter select 10
        read_reply $waiter
        $writer select 10
        read_reply $writer
        while_frozen {
            $waiter blpop queue 0
            wait_for_blocked_client
            $writer rpush queue a b
            wait_for_held 2
            assert_not_held 0 {exists queue}
            $reader select 10
            assert_equal OK [read_reply $reader]
            $reader llen queue
            wait_for_held 3
            assert_silent $reader
        }
        assert_equal {queue a} [read_reply $waiter]
        assert_equal 2 [read_reply $writer]
        assert_equal 1 [read_reply $reader]
        foreach client [list $waiter $writer $reader] {$client close}
    }
}

# The module was not there to see the SELECT.
new_log
start_log
start_server {overrides {save {}} tags {external:skip tls:skip}} {
    test "A client that selected its database before the module was loaded \[case 20\]" {
        set writer [valkey_deferring_client]
        $writer select 10
        assert_equal OK [read_reply $writer]
        r set name 9
        r module load $::env(DURABILITY_SO) log $::host:[log_option port] shard $::shard
        wait_until_leading
        wait_until_durable
        set reader [valkey_deferring_client]
        $reader select 10
        read_reply $reader
        while_frozen {
            $writer set name 10
            wait_for_held 1
            assert_not_held 9 {get name}
            $reader get name
            wait_for_held 2
            assert_silent $reader
        }
        assert_equal OK [read_reply $writer]
        assert_equal 10 [read_reply $reader]
        $writer close
        $reader close
    }
}
kill_log
