# What is not held, as docs/guarantees.md lists it: what operators look at while the log is stuck, and copies of the dataset that leave the
# node by another way than a reply. And what looks like these, and is held.

source $::env(SUITE_SUPPORT)/durability.tcl

durable_server {server {slowlog-log-slower-than 0 enable-debug-command yes}} {
    r set clean value

    foreach {name command expected} {
        "the number of keys in INFO"        {info keyspace}         *db9:keys=2,*
        "what INFO counts by command"       {info commandstats}     *cmdstat_set:*
        "figures in MEMORY STATS"           {memory stats}          {*keys.count 2 *}
        "commands in the slow log"          {slowlog get}           {*set undurable dirty*}
        "commands in COMMANDLOG"            {commandlog get -1 slow} {*set undurable dirty*}
        "a client's last command"           {client list}           *cmd=set*
        "DEBUG that shows no data"          {debug sleep 0}         OK
    } {
        test "Not held: $name" {
            r flushall
            r set clean value
            r slowlog reset
            while_dirty undurable {
                assert_not_held $expected $command
            }
        }
    }

    test "Not held: that a watched key was written, in CLIENT LIST" {
        set watcher [valkey_deferring_client]
        $watcher watch undurable
        read_reply $watcher
        $watcher multi
        read_reply $watcher
        while_dirty undurable {
            assert_not_held {*flags=xd*} {client list}
        }
        $watcher close
    }

    test "Not held: MONITOR" {
        set monitor [valkey_deferring_client]
        $monitor monitor
        assert_equal OK [read_reply $monitor]
        while_dirty undurable {
            while {![string match {*"set" "undurable" "dirty"*} [read_reply $monitor]]} {}
        }
        $monitor close
    }

    test "Not held: what SAVE writes to the node's disk" {
        while_dirty undurable {
            assert_not_held OK {save}
            assert_match *undurable* [exec strings [file join [lindex [r config get dir] 1] dump.rdb]]
        }
    }

    foreach {name command expected} {
        "DEBUG OBJECT"          {debug object undurable}            {Value at:*}
        "DEBUG DIGEST-VALUE"    {debug digest-value undurable}      *
        "DEBUG DIGEST"          {debug digest}                      *
        "OBJECT ENCODING"       {object encoding undurable}         embstr
        "MEMORY USAGE"          {memory usage undurable}            *
        "DUMP"                  {dump undurable}                    *dirty*
    } {
        test "Held: $name" {
            r del undurable
            while_dirty undurable {
                set reader [valkey_deferring_client]
                $reader {*}$command
                wait_for_held 2
                assert_silent $reader
            }
            assert_match $expected [read_reply $reader]
            $reader close
        }
    }

    start_server {overrides {save {}} tags {external:skip tls:skip}} {
        test "Not held: what MIGRATE has copied to its target; its reply is" {
            lassign [list [srv 0 host] [srv 0 port]] host port
            set target [lindex $::servers end]
            set ::servers [lrange $::servers 0 end-1]
            set migrator [valkey_deferring_client]
            while_dirty undurable {
                $migrator migrate $host $port undurable 9 5000
                wait_for_held 2
                assert_silent $migrator
                assert_equal dirty [[dict get $target client] get undurable]
            }
            assert_equal OK [read_reply $migrator]
            $migrator close
            lappend ::servers $target
        }

        test "Not held: what a replica that is attached to the node serves" {
            r replicaof [srv -1 host] [srv -1 port]
            wait_for_sync r
            set ::servers [list {*}[lrange $::servers 0 end-2] [lindex $::servers end] [lindex $::servers end-1]]
            while_dirty undurable {
                wait_for_condition 500 10 {[r -1 get undurable] eq "dirty"} else {
                    fail "the replica does not have it"
                }
            }
            set ::servers [list {*}[lrange $::servers 0 end-2] [lindex $::servers end] [lindex $::servers end-1]]
        }
    }
}
