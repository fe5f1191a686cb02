# The module reaches its own server, whatever operators and crowds of clients do to the ways in.

source $::env(SUITE_SUPPORT)/apart.tcl

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

    test "With what the module logged in by, as it stands in the server's memory, nobody else does" {
        if {[catch {exec python3 $::env(SUITE_SUPPORT)/memory_words.py [srv 0 pid]} words]} {
            # The system may let nobody but root look there.
            assert_match "*PermissionError*" $words
            set words {}
        }
        foreach word $words {
            foreach user {durability-tap durability-self-test} {
                set client [valkey_client]
                assert_error "WRONGPASS*" {$client auth $user $word}
                $client close
            }
        }
    }
}

# Servers that listen on other kinds of addresses alone are in addresses.tcl.

new_log
start_log
test "An address that may be missing, and is another machine's, is not connected to" {
    set port [find_available_port $::baseport $::portcount]
    # Kept for documentation: no machine has it.
    node_apart bound [list "port $port" "bind -192.0.2.1 $::host"] [list -h $::host -p $port]
    start_apart bound
    wait_for_role_apart leader bound
    assert_equal OK [ask bound set key value]
    kill_apart bound
    start_apart bound
    wait_for_role_apart leader bound
    assert_equal value [ask bound get key]
    kill_apart bound
}
kill_log
