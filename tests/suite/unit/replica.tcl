# With durability.allow-replicaof a node may leave its log and follow another server, and lead again.

source $::env(SUITE_SUPPORT)/durability.tcl

proc wait_for_role {role} {
    wait_for_condition 500 10 {[figure role] eq $role} else {
        fail "the role is [figure role], not $role: [figure last_error]"
    }
}

start_server {overrides {save {}} tags {external:skip tls:skip}} {
    r set theirs value
    set other [list [srv 0 host] [srv 0 port]]

    durable_server {} {
        test "What would take the node away from its log is refused unless it is allowed" {
            foreach command {{replicaof no one} {replicaof 127.0.0.1 1} {slaveof no one} failover} {
                assert_error {*log*durability.mode off*} {r {*}$command}
            }
            assert_equal leader [figure role]
            assert_equal master [s role]
        }

        test "REPLICAOF while clients are held: they are answered if the log acknowledges soon" {
            r config set durability.allow-replicaof yes
            set clients {}
            while_frozen {
                foreach key {a b c} {lappend clients [dirty_key $key]}
                assert_equal OK [r replicaof {*}$other]
                assert_equal {replica 3} [list [figure role] [figure held_clients]]
            }
            foreach client $clients {
                assert_equal OK [read_reply $client]
                $client close
            }
            wait_for_held 0
        }

        test "A replica has the other server's data and no log of its own, and holds nothing" {
            wait_for_condition 500 10 {[s master_link_status] eq "up" && [r get theirs] eq "value"} else {
                fail "the node does not follow"
            }
            set end [dict get [log_service LOG.STATUS $::shard] end]
            while_frozen {
                r -1 set theirs newer
                wait_for_condition 500 10 {[r get theirs] eq "newer"} else {
                    fail "the node does not follow"
                }
                assert_equal 0 [figure held_clients]
            }
            assert_error {READONLY*} {r set key value}
            assert_equal replica [figure role]
            assert_equal $end [dict get [log_service LOG.STATUS $::shard] end]
        }

        test "A replica can be made one of another server, also if leaving the log is not allowed any more" {
            r config set durability.allow-replicaof no
            assert_equal OK [r replicaof 127.0.0.1 1]
            assert_equal replica [figure role]
            assert_equal OK [r replicaof {*}$other]
            assert_equal replica [figure role]
            wait_for_condition 500 10 {[s master_link_status] eq "up" && [r get theirs] eq "newer"} else {
                fail "the node does not follow"
            }
            r config set durability.allow-replicaof yes
        }

        # Sent in one packet, the second would be refused with -LOADING: the server has read it already.
        test "REPLICAOF NO ONE: the client may write right after, and the log starts anew" {
            # Its stream is to be longer than the log; the other way round is a test below.
            r -1 set filler [string repeat x 100000]
            r replicaof {*}$other
            wait_for_condition 500 10 {[s master_link_status] eq "up"} else {
                fail "the node does not follow"
            }
            set seeds [figure seeds]
            set client [valkey_deferring_client]
            $client replicaof no one
            assert_equal OK [read_reply $client]
            $client set own value
            set reply [read_any_reply $client]
            $client close
            assert_equal OK $reply
            wait_for_role leader
            wait_until_durable
            assert_morethan [figure seeds] $seeds
            assert_equal newer [r get theirs]
        }

        test "It holds replies again, and after a crash it has what it held as a replica" {
            assert_held OK {set own after}
            r config rewrite
            crash_and_restart_server
            wait_until_leading
            assert_equal {newer after} [r mget theirs own]
        }

        test "REPLICAOF while clients are held and the log goes on acknowledging nothing: they are closed without an answer" {
            set client [valkey_deferring_client]
            while_frozen {
                $client set key lost?
                wait_for_held 1
                assert_equal OK [r replicaof {*}$other]
                assert_match {*I/O error*} [read_any_reply $client]
                wait_for_held 0
            }
            $client close
            assert_equal replica [figure role]
        }

        test "REPLICAOF NO ONE while the log is away: the node leads when it comes back" {
            wait_for_condition 500 10 {[s master_link_status] eq "up"} else {
                fail "the node does not follow"
            }
            r -1 set filler [string repeat x 100000]
            wait_for_condition 500 10 {[r strlen filler] == 100000 && [s -1 master_repl_offset] == [s master_repl_offset]} else {
                fail "the node does not follow"
            }
            kill_log
            assert_equal OK [r replicaof no one]
            wait_for_role attaching
            start_log
            wait_until_leading
            assert_equal OK [r set own again]
            assert_equal {newer again} [r mget theirs own]
            assert_held OK {set own held}
        }
    }
}

# Which of the two streams is longer must not matter: the log starts anew.
foreach {which own theirs} {"longer" 1000 0  "shorter" 0 1000} {
    start_server {overrides {save {}} tags {external:skip tls:skip}} {
        populate $theirs theirs: 100
        r set theirs value
        set other [list [srv 0 host] [srv 0 port]]

        durable_server {allow-replicaof yes} {
            test "A node whose log is $which than the stream that it followed as a replica leads again, and its log starts anew" {
                populate $own own: 100
                r replicaof {*}$other
                wait_for_condition 500 10 {[s master_link_status] eq "up" && [r exists theirs]} else {
                    fail "the node does not follow"
                }
                assert_equal OK [r replicaof no one]
                wait_until_leading
                set client [valkey_deferring_client]
                $client set own value
                wait_until_durable
                assert_equal OK [read_reply $client]
                $client close
                set digest [debug_digest]
                crash_and_restart_server
                wait_until_leading
                assert_equal $digest [debug_digest]
                assert_equal {value value} [r mget own theirs]
            }
        }
    }
}
