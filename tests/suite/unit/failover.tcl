# Several nodes of one shard: one leads, the others follow, and when it goes another one takes over with all that was acknowledged.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

# --- Followers -------------------------------------------------------------------------------------------------------

shard_of 3 {} {
    test "A node that does not lead serves reads, refuses writes, and can be added at any time" {
        set leader [wait_for_shard]
        on $leader set key value
        foreach node [nodes] {
            if {$node eq $leader} continue
            wait_for_condition 500 10 {[on $node get key] eq "value"} else {fail "$node does not get the write"}
            assert_error {READONLY*} {on $node set key other}
            assert_error {ERR this node is led by its log*} {on $node replicaof no one}
        }
        assert_same_data
    }

    test "Every node shows all nodes, and so does the log service" {
        set leader [wait_for_shard]
        on $leader set key value
        foreach node [nodes] {
            wait_for_condition 500 10 {
                [lsort [lmap shown [list [figure_of $node node0] [figure_of $node node1] [figure_of $node node2]] {
                    string map {follower {}} [lindex [split $shown ,] 0]
                }]] eq {id=n0 id=n1 id=n2}
            } else {
                fail "$node shows other nodes"
            }
            assert_equal $leader [figure_of $node leader]
            assert_equal [figure_of $leader leader_address] [figure_of $node leader_address]
        }
        wait_for_condition 500 10 {
            [regexp {id=n1,address=[^,]*:10001,role=(leader|follower),priority=100,applied=(\d+),lag_bytes=0,lag_ms=0,contact_ms=\d+} \
                [dict get [log_service LOG.STATUS $::shard] node1]]
        } else {
            fail "LOG.STATUS shows [dict get [log_service LOG.STATUS $::shard] node1]"
        }
    }

    test "A node tells its zone, which can be changed while it runs, and is a name" {
        set leader [wait_for_shard]
        foreach {zone shown} {zone-1 zone=zone-1 {} zone=} {
            on $leader config set durability.zone $zone
            wait_for_condition 500 10 {
                [lindex [split [dict get [log_service LOG.STATUS $::shard] node[string index $leader 1]] ,] end] eq $shown
            } else {
                fail "LOG.STATUS does not show the zone '$zone': [log_service LOG.STATUS $::shard]"
            }
        }
        assert_error {*cannot name a zone*} {on $leader config set durability.zone "zone 1"}
    }

    test "A client that can be redirected is sent to the leader, unless it wants to read where it is" {
        set leader [wait_for_shard]
        on $leader set key value
        set other [lindex [lsearch -all -inline -not -exact [nodes] $leader] 0]
        wait_for_condition 500 10 {[on $other get key] eq "value"} else {fail "no write arrives"}
        set client [valkey $::host [srv [level $other] port]]
        set redirect "REDIRECT [figure_of $other leader_address]"
        assert_equal value [$client get key]
        $client client capa redirect
        assert_error $redirect {$client get key}
        assert_error $redirect {$client set key other}
        assert_equal PONG [$client ping]
        $client readonly
        assert_equal value [$client get key]
        assert_error $redirect {$client set key other}
        $client multi
        assert_error {*REDIRECT*} {$client set key other}
        assert_error {EXECABORT*} {$client exec}
        $client close
    }

    test "A follower takes no writes, whatever it is told" {
        set leader [wait_for_shard]
        set other [lindex [lsearch -all -inline -not -exact [nodes] $leader] 0]
        on $other config set replica-read-only no
        assert_error {READONLY*} {on $other set key other}
        assert_error {*READONLY*} {on $other eval {return redis.call('set', 'key', 'other')} 0}
        on $other config set replica-read-only yes
        assert_same_data
    }

    test "A follower whose clients are paused leaves nothing out when the leader dies" {
        set leader [wait_for_shard]
        set others [lsearch -all -inline -not -exact [nodes] $leader]
        foreach node $others {on $node client pause 3000 write}
        on $leader set paused acknowledged
        set digest [on $leader debug digest]
        kill_node $leader
        set next [wait_for_leader $leader]
        assert_equal acknowledged [on $next get paused]
        assert_equal $digest [on $next debug digest]
        restart_node $leader
        wait_for_shard
        assert_same_data
    }

    # --- The leader goes -------------------------------------------------------------------------------------------

    test "When the leader is killed another node takes over with all that was acknowledged, and the old one follows it" {
        foreach round {1 2} {
            set leader [wait_for_shard]
            for {set i 0} {$i < 100} {incr i} {on $leader rpush list-$round $i}
            set digest [on $leader debug digest]
            kill_node $leader
            set next [wait_for_leader $leader]
            assert_equal $digest [on $next debug digest]
            on $next set after $round
            restart_node $leader
            wait_for_shard
            assert_same_data
        }
    }

    test "A leader that ends by SIGTERM releases its lease: nobody waits for it to pass" {
        set leader [wait_for_shard]
        # Much longer than what a takeover takes.
        foreach node [nodes] {on $node config set durability.lease-ms 60000}
        wait_for_condition 500 10 {[dict get [log_service LOG.STATUS $::shard] lease_ms] == 60000} else {fail "no longer lease"}
        exec kill -TERM [srv [level $leader] pid]
        set next [wait_for_leader $leader]
        on $next set key after
        foreach node [nodes] {
            if {$node ne $leader} {on $node config set durability.lease-ms 1000}
        }
        restart_node $leader
        wait_for_shard
        wait_for_condition 500 10 {[dict get [log_service LOG.STATUS $::shard] lease_ms] == 1000} else {fail "a longer lease"}
    }

    test "A leader that stood still for three leases answers nobody when it goes on, and follows" {
        set leader [wait_for_shard]
        on $leader set key before
        set clients {}
        foreach command {{get key} {set key late} {ping} {multi} {incr counter}} {
            set client [valkey $::host [srv [level $leader] port] 1]
            $client ping
            assert_equal PONG [read_reply $client]
            lappend clients $client $command
        }
        stop_node $leader
        foreach {client command} $clients {$client {*}$command}
        set next [wait_for_leader $leader]
        on $next set key after
        after 3000
        continue_node $leader
        foreach {client command} $clients {
            assert {[is_readable $client 5000]}
            assert_error {*I/O error*} {$client read}
            catch {$client close}
        }
        wait_for_role follower $leader
        wait_for_condition 500 10 {[on $leader get key] eq "after"} else {fail "the old leader does not follow"}
        assert_equal 1 [figure_of $leader depositions]
        assert_same_data
    }

    test "All nodes killed at once: one leads again, with all data" {
        set leader [wait_for_shard]
        set digest [on $leader debug digest]
        foreach node [nodes] {kill_node $node}
        foreach node [nodes] {restart_node $node}
        set leader [wait_for_shard]
        assert_equal $digest [on $leader debug digest]
        assert_same_data
    }

    test "All nodes killed at once, and the log service: the same, from the log alone" {
        set leader [wait_for_shard]
        set digest [on $leader debug digest]
        foreach node [nodes] {kill_node $node}
        kill_log
        foreach node [nodes] {
            file delete -force {*}[glob -nocomplain -directory [directory_of $node] *.rdb appendonlydir]
        }
        start_log
        foreach node [nodes] {restart_node $node}
        set leader [wait_for_shard]
        assert_equal $digest [on $leader debug digest]
        assert_same_data
    }

    # --- Planned ---------------------------------------------------------------------------------------------------

    test "A planned failover hands over to the node that is named, and nothing is lost" {
        set leader [wait_for_shard]
        foreach to [nodes] {
            set leader [wait_for_shard]
            if {$to eq $leader} continue
            on $leader incr counter
            set counter [on $leader get counter]
            make_leader $to
            assert_equal $counter [on $to get counter]
        }
        assert_same_data
    }

    test "A planned failover that cannot come about is refused, or given up, and the leader goes on" {
        set leader [wait_for_shard]
        set other [lindex [lsearch -all -inline -not -exact [nodes] $leader] 0]
        wait_until_known $leader $other
        assert_error {ERR *does not know that node*} {on $leader durability.failover to nobody}
        assert_error {ERR that node leads already} {on $leader durability.failover to $leader}
        assert_error "ERR the role of this node is follower: ask the leader ($leader at *) to hand over" {on $other durability.failover}
        assert_error {ERR usage*} {on $leader durability.failover to}
        assert_error {ERR TIMEOUT*} {on $leader durability.failover timeout soon}
        stop_node $other
        # It was heard of a moment ago, and will not get there.
        set epoch [figure_of $leader epoch]
        on $leader set key value
        assert_equal OK [on $leader durability.failover to $other timeout 300]
        wait_for_condition 500 10 {[figure_of $leader failover_error] ne ""} else {fail "the failover is not given up"}
        assert_equal OK [on $leader set key after]
        assert_equal $epoch [figure_of $leader epoch]
        continue_node $other
        wait_for_shard
        assert_same_data
    }
}

shard_of 2 {mode async} {
    test "A planned failover in async mode loses nothing that was answered, though the log is late" {
        set leader [wait_for_shard]
        set other [lindex [lsearch -all -inline -not -exact [nodes] $leader] 0]
        log_service LOG.DEBUG DELAY-ACKS $::shard 400
        wait_until_known $leader $other
        for {set i 0} {$i < 100} {incr i} {on $leader incr counter}
        # That much of it was not acknowledged yet.
        assert_morethan [figure_of $leader pending_bytes] 0
        assert_equal OK [on $leader durability.failover to $other]
        wait_for_role leader $other
        log_service LOG.DEBUG RESUME-ACKS $::shard
        assert_equal 100 [on $other get counter]
        wait_for_shard
        assert_equal 0 [figure_of $leader discarded_bytes]
        assert_same_data
    }
}

# --- Who takes over --------------------------------------------------------------------------------------------------

shard_of 3 {n0 {priority 0} n1 {priority 50} n2 {priority 200}} {
    test "The node of the highest priority takes over, and one of priority 0 never does" {
        make_leader n2
        kill_node n2
        assert_equal n1 [wait_for_leader n2]
        restart_node n2
        wait_for_shard
        wait_until_known n1 n0
        wait_until_known n1 n2
        assert_error {ERR *priority 0*} {on n1 durability.failover to n0}
        assert_equal OK [on n1 durability.failover]
        wait_for_role leader n2
        kill_node n1
        kill_node n2
        # Longer than two leases.
        after 2500
        assert_equal follower [role_of n0]
        restart_node n1
        wait_for_role leader n1
        restart_node n2
        wait_for_shard
    }
}

# --- Five followers --------------------------------------------------------------------------------------------------

shard_of 6 {} {
    test "Five nodes follow, and the leader neither forks nor sends a copy for any of them" {
        set leader [wait_for_shard]
        for {set i 0} {$i < 100} {incr i} {on $leader set key-$i [string repeat x 10000]}
        assert_same_data
        assert_equal 0 [s [level $leader] total_forks]
        assert_equal 0 [s [level $leader] sync_full]
        # The log is the only replica that it has.
        assert_equal 1 [s [level $leader] connected_slaves]
        set shown 0
        dict for {name value} [log_service LOG.STATUS $::shard] {
            if {[regexp {^node\d$} $name]} {incr shown}
        }
        assert_equal 6 $shown
    }

    test "Of five followers one takes over, and the others follow it" {
        set leader [wait_for_shard]
        set digest [on $leader debug digest]
        kill_node $leader
        set next [wait_for_leader $leader]
        assert_equal $digest [on $next debug digest]
        on $next set after failover
        restart_node $leader
        wait_for_shard
        assert_same_data
    }
}

# --- A process of the same name --------------------------------------------------------------------------------------

shard_of 2 {n1 {node-id n0}} {
    test "A process that goes by the leader's name follows, and takes over only when the lease has passed" {
        set leader [wait_for_shard]
        set other [lindex [lsearch -all -inline -not -exact [nodes] $leader] 0]
        on $leader set key before
        wait_for_condition 500 10 {[on $other get key] eq "before"} else {fail "the namesake does not follow"}
        verify_log_message [level $other] "*a process with this node's id 'n0'*leads in epoch*" 0
        set client [valkey $::host [srv [level $leader] port] 1]
        $client ping
        assert_equal PONG [read_reply $client]
        stop_node $leader
        $client get key
        # A lease lasts for a second, and was renewed a third of it ago, or a little more. Without it this takes some 10 ms.
        set started [clock milliseconds]
        assert_equal $other [wait_for_leader $leader]
        assert_morethan [expr {[clock milliseconds] - $started}] 300
        on $other set key after
        continue_node $leader
        assert {[is_readable $client 5000]}
        assert_error {*I/O error*} {$client read}
        catch {$client close}
        wait_for_role follower $leader
        wait_for_condition 500 10 {[on $leader get key] eq "after"} else {fail "the old leader does not follow"}
        assert_same_data
    }
}

shard_of 1 {lease-ms 60000} {
    test "A leader that is killed and started again at once leads again, and does not wait for its own lease" {
        wait_for_shard
        on n0 set key value
        set epoch [figure_of n0 epoch]
        set started [clock milliseconds]
        kill_node n0
        restart_node n0
        wait_for_role leader n0
        assert_lessthan [expr {[clock milliseconds] - $started}] 20000
        assert_equal value [on n0 get key]
        assert_equal [expr {$epoch + 1}] [figure_of n0 epoch]
    }
}

# The process that led is gone here, but a clone of this machine may run it still.
new_log
start_log
lassign [start_relay tcp [list $::host [log_option port]]] ::relay ::relay_port
set ::shard_options [list failover yes lease-ms 60000 log $::host:$::relay_port]
start_nodes 0 {
    test "A node does not free a lease that a process of its own name got from another address" {
        wait_for_shard
        on n0 set key value
        set epoch [figure_of n0 epoch]
        kill_node n0
        stop_relay $::relay
        lassign [start_relay tcp [list $::host [log_option port] 127.0.0.2] $::relay_port] ::relay
        set lines [count_log_lines 0]
        restart_node n0
        wait_for_log_messages 0 [list "*a process with this node's id 'n0' (*/127.0.0.1)*leads in epoch $epoch.*"] $lines 3000 10
        assert_equal $epoch [dict get [log_service LOG.STATUS $::shard] epoch]
        assert_equal n0 [dict get [log_service LOG.STATUS $::shard] leader]
        # The operator knows that there is no clone.
        log_service LOG.RELEASE $::shard $epoch FORCE
        wait_for_role leader n0
        assert_equal value [on n0 get key]
    }
}
stop_relay $::relay
kill_log

# --- Cut off ----------------------------------------------------------------------------------------------------------

# One node reaches the log through a relay that can be cut.
proc shard_with_relay {mode code} {
    new_log
    start_log
    lassign [start_relay tcp [list $::host [log_option port]]] ::relay port
    set ::shard_options [list failover yes lease-ms 1000 mode $mode n0 [list log $::host:$port]]
    start_nodes 1 $code
    stop_relay $::relay
    kill_log
}

foreach mode {sync async} {
    set ::durability_mode $mode
    shard_with_relay $mode {
        test "A leader that is cut off from the log gives way, and drops what only it had ($::durability_mode)" {
            wait_for_shard
            make_leader n0
            on n0 set key before
            # In mode async the reply does not wait for that.
            wait_for_condition 500 10 {[figure_of n0 pending_bytes] == 0} else {fail "the write does not become durable"}
            # While it is stopped, the relay passes nothing on.
            exec kill -STOP $::relay
            set client [valkey $::host [srv 0 port] 1]
            $client set key lost
            $client set other lost
            if {$::durability_mode eq "async"} {assert_equal OK [read_reply $client]}
            assert_equal n1 [wait_for_leader n0]
            assert_equal before [on n1 get key]
            on n1 set key after
            assert_error {CLUSTERDOWN*} {on n0 get key}
            if {$::durability_mode eq "async"} {catch {read_reply $client}}
            assert {[is_readable $client 5000]}
            assert_error {*I/O error*} {$client read}
            catch {$client close}
            exec kill -CONT $::relay
            wait_for_role follower n0
            wait_for_condition 500 10 {[on n0 get key] eq "after"} else {fail "n0 has [on n0 get key]"}
            assert_equal {} [on n0 get other]
            assert_equal 1 [figure_of n0 depositions]
            assert_morethan [figure_of n0 discarded_bytes] 50
            assert_same_data
        }
    }
}

# --- Without the log -------------------------------------------------------------------------------------------------

foreach mode {sync async} {
    set ::durability_mode $mode
    shard_of 2 [list mode $mode] {
        test "A leader that cannot renew its lease serves nobody, and goes on when it can ($::durability_mode)" {
            set leader [wait_for_shard]
            set epoch [figure_of $leader epoch]
            on $leader set key value
            set client [valkey $::host [srv [level $leader] port] 1]
            $client ping
            assert_equal PONG [read_reply $client]
            set suspensions [figure_of $leader suspensions]
            # One that waits for nothing, but may be told of something.
            set subscriber [valkey $::host [srv [level $leader] port] 1]
            $subscriber subscribe channel
            assert_equal {subscribe channel 1} [read_reply $subscriber]
            exec kill -STOP [log_option pid]
            # What is written when the lease passes goes into the log all the same.
            set writer [valkey $::host [srv [level $leader] port] 1]
            set deadline [expr {[clock milliseconds] + 5000}]
            while {![catch {$writer incr counter; $writer flush}] && [role_of $leader] ne "suspended" && [clock milliseconds] < $deadline} {after 1}
            catch {$writer close}
            wait_for_role suspended $leader
            $client get key
            assert {[is_readable $client 5000]}
            assert_error {*I/O error*} {$client read}
            catch {$client close}
            assert_error {CLUSTERDOWN durability: the lease of this node has passed*} {on $leader get key}
            assert {[is_readable $subscriber 5000]}
            catch {$subscriber close}
            wait_for_condition 500 10 {[figure_of $leader held_clients] == 0} else {
                fail "[figure_of $leader held_clients] clients are held"
            }
            assert_equal [expr {$suspensions + 1}] [figure_of $leader suspensions]
            assert_equal 0 [figure_of $leader lease_left_ms]
            exec kill -CONT [log_option pid]
            wait_for_role leader $leader
            assert_equal $epoch [figure_of $leader epoch]
            assert_equal value [on $leader get key]
            assert_equal OK [on $leader set key after]
            assert_equal 0 [figure_of $leader depositions]
            wait_for_condition 500 10 {[figure_of $leader lease_left_ms] > 0 && [figure_of $leader lease_left_ms] <= 1000} else {
                fail "the lease lasts for [figure_of $leader lease_left_ms] ms"
            }
            wait_for_shard
            assert_same_data
        }
    }
}

durable_server {failover no} {
    test "Without failover the lease does not expire: reads go on while the log is away" {
        r set key value
        exec kill -STOP [log_option pid]
        # Longer than a lease would be.
        after 4000
        assert_equal value [r get key]
        assert_equal leader [figure role]
        exec kill -CONT [log_option pid]
        r set key after
        assert_equal after [r get key]
    }
}

# --- A log that is far away ---------------------------------------------------------------------------------------------

new_log
start_log
set far [list $::host [log_option port] 0.02]
lassign [start_relay late $far] ::relay ::relay_port
start_server [server_options [list failover yes lease-ms 300 log $::host:$::relay_port]] {
    test "A short lease is renewed on a new connection, although to open one takes longer than a renewal may" {
        # Login, comparison and renewal are three answers of 40 ms, and a renewal may take 100 ms.
        wait_for_condition 3000 10 {![catch {on n0 set key before}]} else {fail "the lease is not renewed"}
        stop_relay $::relay
        wait_for_role suspended n0
        set ::relay [start_relay_on $::relay_port late $far]
        wait_for_condition 3000 10 {![catch {on n0 set key after}]} else {fail "the lease is not renewed: [figure_of n0 last_error]"}
        assert_equal after [on n0 get key]
    }
}
stop_relay $::relay
kill_log
