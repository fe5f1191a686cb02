# What operators and their monitoring see of a node: times of acknowledgements, the server's latency monitor, its log, its replicas, and
# what the log service shows of it.

source $::env(SUITE_SUPPORT)/durability.tcl

# The value of a metric of this node, as the log service shows it; empty if it shows none.
proc metric {name} {
    set address [log_address http]
    set text [exec python3 -c "import urllib.request; print(urllib.request.urlopen('http://$address/metrics', timeout=5).read().decode())"]
    set labels "shard=\"$::shard\",node=\"[figure node_id]\""
    foreach line [split $text \n] {
        if {[string match "$name{$labels*}*" $line] || [string match "$name{shard=\"$::shard\"}*" $line]} {return [lindex $line end]}
    }
    return {}
}

proc wait_for_metric {name condition} {
    wait_for_condition 100 50 {[set value [metric $name]] ne {} && [expr "$value $condition"]} else {
        fail "$name is [metric $name], not $condition"
    }
}

# The lines of replicas in INFO replication, as exporters read them: `slave0:ip=…,port=…,offset=…`.
proc replica_lines {} {
    lsearch -all -inline -regexp [split [r info replication] \r\n] {^slave\d+:}
}

# The rule of the usual alerts on lag, over what redis_exporter takes of INFO: its series connected_slave_offset_bytes and
# connected_slave_lag_seconds have one sample for each of these lines.
proc lagging_replicas {most_bytes most_seconds} {
    set lagging {}
    foreach line [replica_lines] {
        regexp {[:,]offset=(\d+)} $line -> offset
        regexp {[:,]lag=(\d+)} $line -> seconds
        if {[s master_repl_offset] - $offset > $most_bytes || $seconds > $most_seconds} {lappend lagging $line}
    }
    return $lagging
}

durable_server {} {
    test "Times of acknowledgements are shown since the start and for the last minute" {
        for {set i 0} {$i < 50} {incr i} {r set key $i}
        assert_morethan_equal [figure acks] 50
        assert_morethan [figure ack_p50_us] 0
        assert_morethan_equal [figure ack_p99_us] [figure ack_p50_us]
        assert_morethan_equal [figure ack_max_us] [figure ack_p99_us]
        assert_equal [figure acks] [figure minute_acks]
        assert_equal [figure ack_max_us] [figure minute_ack_max_us]
    }

    test "An acknowledgement that takes long is the longest, and an event of the latency monitor" {
        r config set latency-monitor-threshold 100
        r latency reset
        set client [valkey_deferring_client]
        while_frozen {
            $client set slow 1
            wait_for_held 1
            after 150
        }
        assert_equal OK [read_reply $client]
        $client close
        assert_morethan_equal [figure ack_max_us] 150000
        set events [r latency latest]
        set event [lsearch -inline -index 0 $events durability-ack]
        assert {$event ne {}}
        assert_morethan_equal [lindex $event 3] 150
    }

    test "Acknowledgements below the threshold are no events" {
        r config set latency-monitor-threshold 60000
        r latency reset
        while_frozen {
            set client [valkey_deferring_client]
            $client set slow 2
            wait_for_held 1
            after 50
        }
        read_reply $client
        $client close
        assert_equal {} [lsearch -inline -index 0 [r latency latest] durability-ack]
        r config set latency-monitor-threshold 0
    }

    test "The tap is no replica in INFO and ROLE, alerts on lag stay quiet, and WAIT counts as before" {
        r set large [string repeat x 100000]
        assert_equal 1 [s connected_slaves]
        assert_equal {} [replica_lines]
        assert_equal {} [lindex [r role] 2]
        assert_equal {} [lagging_replicas 1000 30]
        assert_equal 0 [r wait 1 20]
        # It is a connection all the same.
        assert_match {*id=* addr=?*:* *flags=S*} [r client list type replica]
    }

    start_server {overrides {save {}} tags {external:skip tls:skip}} {
        test "A real replica is shown beside the tap, alone and with its offset, and WAIT counts it" {
            r replicaof [srv -1 host] [srv -1 port]
            wait_for_condition 500 10 {[s master_link_status] eq "up"} else {
                fail "the replica is not linked"
            }
            assert_equal OK [r -1 set replicated 1]
            assert_equal 1 [r -1 wait 1 5000]
            set lines [lsearch -all -inline -regexp [split [r -1 info replication] \r\n] {^slave\d+:}]
            assert_equal 1 [llength $lines]
            assert_match "slave0:ip=*,port=[srv 0 port],state=online,*" [lindex $lines 0]
            assert_equal 2 [s -1 connected_slaves]
            r replicaof no one
        }
    }

    test "The log service shows what the node reports of itself" {
        wait_for_metric valkey_durability_leads {== 1}
        wait_for_metric valkey_durability_acks "> 0"
        assert_morethan [metric valkey_durability_ack_p50_seconds] 0
        assert_morethan_equal [metric valkey_durability_ack_max_seconds] 0.15
        assert_equal 10.0 [metric valkey_durability_lag_limit_seconds]
        assert_morethan [metric logservice_append_duration_seconds_count] 0
        set client [valkey_deferring_client]
        while_frozen {
            $client set held 1
            wait_for_held 1
            wait_for_metric valkey_durability_lag_seconds {>= 0.3}
            wait_for_metric logservice_shard_lag_seconds {>= 0.3}
            assert_equal 1.0 [metric valkey_durability_held_clients]
            assert_equal 1.0 [metric valkey_durability_dirty_keys]
            assert_morethan [metric valkey_durability_pending_bytes] 0
        }
        read_reply $client
        $client close
        wait_for_metric valkey_durability_held_clients {== 0}
    }

    test "Refusals are counted where they can be scraped, and said once in the server's log" {
        set lines [count_log_message 0 "durability: refusing writes"]
        r config set durability.max-lag-ms 200
        set client [valkey_deferring_client]
        while_frozen {
            $client set refused 1
            wait_for_condition 500 10 {[figure refusing_writes] == 1} else {fail "writes are not refused"}
            assert_error {*durability*} {r set other 1}
            wait_for_metric valkey_durability_refusing_writes {== 1}
        }
        read_reply $client
        $client close
        wait_for_metric valkey_durability_refusing_writes {== 0}
        assert_equal 1.0 [metric valkey_durability_refusals_total]
        assert_morethan_equal [metric valkey_durability_refused_commands_total] 1
        assert_morethan [metric valkey_durability_refused_seconds_total] 0
        assert_equal [expr {$lines + 1}] [count_log_message 0 "durability: refusing writes"]
        r config set durability.max-lag-ms 10000
    }

    test "Each change of role and link is one line of the server's log" {
        assert_equal 1 [count_log_message 0 "durability: role: leader, was attaching"]
        assert_equal 1 [count_log_message 0 "durability: link: up"]
        assert_equal 0 [count_log_message 0 "durability: link: down"]
        kill_log
        wait_for_condition 500 10 {[count_log_message 0 "durability: link: down"] == 1} else {
            fail "the lost link is not logged"
        }
        start_log
        wait_for_condition 1000 10 {[count_log_message 0 "durability: link: up"] == 2} else {
            fail "the link is not logged"
        }
        assert_equal 1 [count_log_message 0 "durability: link: down"]
        r config set durability.mode off
        assert_equal 1 [count_log_message 0 "durability: role: off, was leader"]
    }
}

durable_server {mode async} {
    test "In async mode, times of acknowledgements are those of the writes, for which nobody waits" {
        r set key value
        wait_until_durable
        assert_morethan_equal [figure acks] 1
        while_frozen {
            r set key value
            after 120
        }
        wait_until_durable
        assert_morethan_equal [figure ack_max_us] 120000
        wait_for_metric valkey_durability_ack_max_seconds {>= 0.12}
        assert_equal {} [replica_lines]
    }
}
