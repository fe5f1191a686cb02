# The module reaches its own server, whatever operators and crowds of clients do to the ways in.

source $::env(SUITE_SUPPORT)/durability.tcl

# The tap is gone: the module has to reach its server again, and to log in.
proc lose_tap {} {
    set reconnects [figure tap_reconnects]
    r client kill type replica
    wait_for_condition 1000 10 {[figure tap_reconnects] > $reconnects && [figure pending_bytes] == 0} else {
        fail "the module does not reach its server again: [figure last_error]"
    }
}

proc assert_acknowledged {key} {
    set writer [valkey_deferring_client]
    $writer set $key value
    assert_equal OK [read_reply $writer]
    $writer close
}

durable_server {} {
    test "The tap is opened again after the port has changed" {
        set port [lindex [r config get port] 1]
        r config set port [find_available_port $::baseport $::portcount]
        lose_tap
        assert_equal OK [r set port changed]
        r config set port $port
    } {OK}

    test "The tap is opened again when the server listens nowhere any more" {
        set port [lindex [r config get port] 1]
        r config set port 0
        lose_tap
        assert_equal OK [r set port none]
        r config set port $port
    } {OK}

    test "The tap is opened again when the unix socket's file was deleted" {
        file delete [lindex [r config get unixsocket] 1]
        lose_tap
        assert_equal OK [r set socket deleted]
    }

    test "The tap is opened again when clients hold all places" {
        set maxclients [lindex [r config get maxclients] 1]
        r config set maxclients [expr {[s connected_clients] + [s connected_slaves]}]
        assert_error "*max number of clients*" {valkey_client}
        lose_tap
        assert_equal OK [r set places none]
        r config set maxclients $maxclients
    } {OK}
}

# --- Servers that the framework's own clients cannot reach -----------------------------------------------------------

# Starts a server with those lines of configuration; `reach` is what valkey-cli needs to reach it.
proc start_alone {directory lines reach} {
    set ::reach $reach
    set file [open $directory/valkey.conf w]
    puts $file "dir $directory\nsave \"\"\nloadmodule $::env(DURABILITY_SO)"
    puts $file "durability.log $::host:[log_option port]\ndurability.shard $::shard"
    puts $file [join $lines \n]
    close $file
    set pid [exec $::env(VALKEY_BIN_DIR)/valkey-server $directory/valkey.conf >> $directory/output 2>@1 &]
    send_data_packet $::test_server_fd server-spawned [list $pid $directory/output $::curfile]
    wait_for_condition 1000 10 {[string match *durability_role:leader* [ask info durability]]} else {
        fail "the server does not lead: [exec tail -n 20 $directory/output]"
    }
    return $pid
}

proc ask {args} {
    if {[catch {exec $::env(VALKEY_BIN_DIR)/valkey-cli {*}$::reach {*}$args 2>@1} answer]} {return "error: $answer"}
    return $answer
}

# It leads, acknowledges a write, dies, and has the write when it leads again.
proc assert_leads_twice {lines reach} {
    set ::shard alone[incr ::alone]
    set directory [file normalize [tmpdir alone]]
    set pid [start_alone $directory $lines $reach]
    assert_equal OK [ask set key value]
    kill_hard $pid
    set pid [start_alone $directory $lines $reach]
    assert_equal value [ask get key]
    kill_hard $pid
    send_data_packet $::test_server_fd server-killed $pid
}

set alone 0
new_log
start_log

test "A server that listens on a unix socket alone leads, and leads again" {
    set socket [file normalize [tmpdir socket]]/s
    assert_leads_twice [list "port 0" "unixsocket $socket"] [list -s $socket]
}

test "A server that listens with TLS alone leads, and leads again" {
    lassign [tls_server] configuration target
    set lines {{port 0}}
    dict for {name value} $configuration {lappend lines "$name $value"}
    assert_leads_twice $lines [list --tls --insecure -h $::host -p [lindex $target 1]]
}

test "A server that is bound to IPv6 alone leads, and leads again" {
    set port [find_available_port $::baseport $::portcount]
    assert_leads_twice [list "port $port" "bind ::1"] [list -h ::1 -p $port]
}

test "An address that may be missing, and is another machine's, is not connected to" {
    set port [find_available_port $::baseport $::portcount]
    # Kept for documentation: no machine has it.
    assert_leads_twice [list "port $port" "bind -192.0.2.1 $::host"] [list -h $::host -p $port]
}

kill_log
