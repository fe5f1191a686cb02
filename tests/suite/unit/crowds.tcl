# After a failover all clients come at once, and more of them than the new leader takes, or the log service.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

# CROWD_ROUNDS=10 CROWD_LIMIT_MS=2000, on a machine that does nothing else, shows that it takes no longer than the lease and a second.
set ::rounds [expr {[info exists ::env(CROWD_ROUNDS)] ? $::env(CROWD_ROUNDS) : 2}]
set ::limit_ms [expr {[info exists ::env(CROWD_LIMIT_MS)] ? $::env(CROWD_LIMIT_MS) : 5000}]

shard_of 2 {server {maxclients 60}} {
    test "A new leader acknowledges although clients hold and want all its places" {
        set times_ms {}
        for {set round 0} {$round < $::rounds} {incr round} {
            set leader [wait_for_shard]
            set other [lindex [lsearch -all -inline -not -exact [nodes] $leader] 0]
            set output [tmpfile crowd]
            set crowd [exec python3 $::env(SUITE_SUPPORT)/crowd.py $::host [srv [level $other] port] 200 > $output 2> $output.err &]
            # Until the last place is taken.
            wait_for_condition 500 10 {[role_of $other] eq "down"} else {
                fail "the crowd does not come"
            }
            set killed_ms [clock milliseconds]
            kill_node $leader
            wait_for_condition 1000 10 {[file size $output] > 0} else {
                kill_hard $crowd
                fail "no write is acknowledged"
            }
            wait_for_condition 500 10 {![is_alive $crowd]} else {fail "the crowd does not go"}
            set took_ms [expr {[string trim [exec cat $output]] - $killed_ms}]
            lappend times_ms $took_ms
            restart_node $leader
        }
        puts "a write was acknowledged after [join $times_ms {, }] ms (lease 1000 ms)"
        foreach took_ms $times_ms {assert_lessthan $took_ms $::limit_ms}
    }
}

# Clients that look for the leader hold as many of the log service's connections as they get.
new_log
dict set ::log_service arguments {--max-connections 40}
start_log
set clients {}
set refused {}
for {set number 0} {$number < 60} {incr number} {
    if {[catch {
        set client [valkey [log_option host] [log_option port]]
        $client SENTINEL PRIMARIES
        lappend clients $client
    } why]} {lappend refused $why}
}
start_server [server_options {}] {
    test "A node starts, and again after a crash, while clients hold all connections to the log that they may" {
        wait_until_leading
        assert_equal OK [r set crowded value]
        crash_and_restart_server
        wait_until_leading
        assert_equal value [r get crowded]
        # Of 40, 16 are kept for nodes.
        assert_equal 24 [llength $clients]
        assert_equal {} [lsearch -all -inline -not $refused "ERR too many connections: as many as --max-connections allows to clients*"]
        foreach client $clients {assert_equal 1 [llength [$client SENTINEL PRIMARIES]]}
        # An operator sees what is the matter.
        assert_match *leader* [log_service LOG.STATUS $::shard]
    }
}
foreach client $clients {$client close}
kill_log
