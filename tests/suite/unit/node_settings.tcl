# Users, modules and settings are each node's own. The nodes of a shard are compared, as clients notice a difference only when another node
# leads.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

# Waits until the log service and all nodes say that the nodes differ in exactly that.
proc wait_for_differences {names} {
    foreach node [nodes] {
        wait_for_condition 1000 20 {[figure_of $node differing_settings] eq $names} else {
            fail "$node shows '[figure_of $node differing_settings]', not '$names'"
        }
    }
    assert_equal $names [dict get [log_service LOG.STATUS $::shard] differing_settings]
}

# Has a node look at its users now: it looks once a minute, and soon after a config was changed.
proc look_now {node} {
    on $node config set slowlog-max-len [expr {[lindex [on $node config get slowlog-max-len] 1] + 1}]
}

proc shown_shards {} {
    exec python3 -c "import urllib.request; print(urllib.request.urlopen('http://[log_address http]/api/shards', timeout=5).read().decode())"
}

shard_of 2 {} {
    set leader [wait_for_shard]
    set other [lindex [lsearch -all -inline -not -exact [nodes] $leader] 0]

    test "Nodes that are set up alike do not differ" {
        # Looks are done once both have told something, which a difference shows.
        on $other config set timeout 4321
        wait_for_differences timeout
        on $other config set timeout 0
        wait_for_differences {}
    }

    test "A node with another setting than the leader is named, with both values, and the leader's server says so once" {
        on $other config set maxmemory 123456789
        wait_for_differences maxmemory
        assert_match "*NodeSettingsDiffer*The node $other of $::shard is set up differently from $leader: maxmemory ('123456789', $leader has '0')*" \
            [shown_shards]
        assert_equal 1 [count_log_message [level $leader] "clients would notice after a failover: maxmemory"]
        on $other config set maxmemory 0
        wait_for_differences {}
        wait_for_condition 100 20 {[count_log_message [level $leader] "the nodes of this shard are set up alike again"] == 2} else {
            fail "the leader does not say so"
        }
    }

    test "Another password of a user is a difference, and neither it nor its hash is shown to anybody" {
        foreach node [nodes] {on $node acl setuser app on >one ~* +@read}
        on $other acl setuser app >two
        look_now $other
        look_now $leader
        wait_for_differences acl
        set shown "[shown_shards] [log_service LOG.STATUS $::shard]"
        set hash [string range [dict get [on $other acl getuser app] passwords] 0 63]
        assert {[string length $hash] == 64}
        assert {[string first $hash $shown] < 0 && [string first "#" $shown] < 0}
        on $leader acl setuser app <one >two >one
        look_now $leader
        wait_for_differences {}
        on $leader acl deluser app
        look_now $leader
        wait_for_differences acl
        on $other acl deluser app
        look_now $other
        wait_for_differences {}
    }

    test "A thousand users are looked at in steps, and the last of them counts" {
        foreach node [nodes] {
            for {set i 0} {$i < 1000} {incr i} {on $node acl setuser user$i on nopass ~* +get}
        }
        on $other acl setuser user999 +set
        foreach node [nodes] {look_now $node}
        wait_for_differences acl
        on $leader acl setuser user999 +set
        look_now $leader
        wait_for_differences {}
    }
}
