# What a node tells those who have not logged in: nothing but that.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

# What a client is answered, error or not.
proc read_error {client args} {
    catch {$client {*}$args} told
    return $told
}

set ::password login-of-this-server

# Runs `code` while nodes want a password.
proc with_password {nodes code} {
    foreach node $nodes {on $node config set requirepass $::password}
    set failed [catch {uplevel 1 $code} result options]
    foreach node $nodes {
        set client [valkey $::host [srv [level $node] port]]
        $client auth $::password
        $client config set requirepass {}
        $client close
    }
    if {$failed} {return -options $options $result}
}

proc assert_told_nothing {client commands} {
    foreach command $commands {
        assert_match {*NOAUTH Authentication required.} [read_error $client {*}$command] $command
    }
}

shard_of 2 {} {
    test "Who has not logged in is told nothing of the node and of its leader" {
        set leader [wait_for_shard]
        set other [expr {$leader eq "n0" ? "n1" : "n0"}]
        with_password [list $leader $other] {
            foreach node [list $leader $other] {
                set client [valkey $::host [srv [level $node] port]]
                assert_told_nothing $client {
                    {get key} {set key 1} {client capa redirect} {get key} {set key 1} exec {replicaof no one} failover {config rewrite}
                    {debug reload}
                }
                # Nor is it redirected for what it said before.
                $client auth $::password
                catch {$client get key} told
                assert_no_match *REDIRECT* $told
                $client client capa redirect
                assert_equal [expr {$node eq $other}] [string match REDIRECT* [read_error $client get key]]
                $client close
            }
        }
    }

    test "Nor of one that serves nobody" {
        set leader [wait_for_shard]
        set other [expr {$leader eq "n0" ? "n1" : "n0"}]
        kill_node $other
        kill_log
        # Its lease passes.
        wait_for_condition 1000 10 {[string match CLUSTERDOWN* [read_error [srv [level $leader] client] get key]]} else {
            fail "it goes on serving"
        }
        with_password [list $leader] {
            set client [valkey $::host [srv [level $leader] port]]
            assert_told_nothing $client {{get key} {set key 1} exec {eval {return 1} 0} {durability.status}}
            $client auth $::password
            assert_error CLUSTERDOWN* {$client get key}
            $client close
        }
    }
}
