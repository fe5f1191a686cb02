# After a failover all clients come at once, and more of them than the new leader takes.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

set ::rounds [expr {[info exists ::env(CROWD_ROUNDS)] ? $::env(CROWD_ROUNDS) : 2}]

shard_of 2 {server {maxclients 60}} {
    test "A new leader acknowledges although clients hold and want all its places" {
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
            puts "a write was acknowledged after $took_ms ms (lease 1000 ms)"
            assert_lessthan $took_ms 5000
            restart_node $leader
        }
    }
}
