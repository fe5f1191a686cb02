# What the units share: a log service and a server with the module, and ways to see that a reply is held.

source $::env(SUITE_SUPPORT)/testmodule.tcl

# Whatever is waited for gets half a minute at least, as other work on the machine may leave little of its cores. A bound that a test is about
# is measured, not waited for.
if {[info procs wait_as_valkey_does] eq ""} {
    rename wait_for_condition wait_as_valkey_does
    proc wait_for_condition {tries delay_ms args} {
        tailcall wait_as_valkey_does [expr {max($tries, 30000 / $delay_ms)}] $delay_ms {*}$args
    }
}

set ::shard s1

# --- The log service ---------------------------------------------------------------------------------------------

# Chooses ports and a directory for a log service; start_log starts it there, as often as it takes, on its host, which a test
# may change; that for HTTP may be another. Its admin port is where it is reached without TLS.
proc new_log {} {
    set port [find_available_port $::baseport $::portcount]
    set ::log_service [dict create \
        directory [tmpdir log] \
        host $::host \
        port $port \
        admin $port \
        http [find_available_port $::baseport $::portcount] \
        http_host {} \
        pid 0 \
        wrapper {} \
        arguments {}]
}

proc log_option {name} {
    dict get $::log_service $name
}

# Where its port of that name is, as flags and configs take it.
proc log_address {{port port}} {
    set host [log_option host]
    if {$port eq "http" && [log_option http_host] ne ""} {set host [log_option http_host]}
    if {[string match *:* $host]} {set host \[$host\]}
    return $host:[log_option $port]
}

proc log_command {} {
    list {*}[log_option wrapper] $::env(LOGSERVICE) --dir [log_option directory] --listen [log_address] \
        --http [log_address http] --enable-debug-command --valkey-server $::env(VALKEY_BIN_DIR)/valkey-server \
        {*}[log_option arguments]
}

proc start_log {} {
    set output [log_option directory].output
    set pid [exec {*}[log_command] >> $output 2>@1 &]
    dict set ::log_service pid $pid
    send_data_packet $::test_server_fd server-spawned [list $pid $output $::curfile]
    wait_for_condition 500 10 {[ping_server [log_option host] [log_option port]]} else {
        fail "the log service does not start: [exec cat $output]"
    }
}

# As a crash would end it. Does nothing if it does not run.
proc kill_log {} {
    set pid [log_option pid]
    if {$pid == 0} return
    kill_hard $pid
    dict set ::log_service pid 0
    send_data_packet $::test_server_fd server-killed $pid
}

proc kill_hard {pid} {
    catch {exec kill -KILL $pid}
    wait_for_condition 500 10 {![is_alive $pid]} else {
        fail "process $pid does not end"
    }
}

# Sends the log service one command.
proc log_service {args} {
    set client [valkey [log_option host] [log_option admin]]
    # As every node does. One that is refused is refused below as well.
    if {[lindex $args 0] eq "LOG.ACQUIRE"} {catch {$client LOG.CHECK {*}[lrange $args 1 3] -}}
    set failed [catch {$client {*}$args} reply]
    $client close
    return -code $failed $reply
}

# As a node makes it that knows nothing of it.
proc make_shard {shard} {
    log_service LOG.CHECK $shard somebody nowhere:1 -
}

# Another node leads from the log's end on, in name: whoever follows the log waits. Its server is of that version.
proc hold_lease {{engine 9.1.0}} {
    make_shard $::shard
    set status [log_service LOG.STATUS $::shard]
    if {[dict get $status leader] ne ""} {
        # For nobody else: a node that runs would be faster.
        log_service LOG.RELEASE $::shard [dict get $status epoch] TO somebody 30000 FORCE
    }
    log_service LOG.ACQUIRE $::shard somebody nowhere:1 [dict get $status end] 0 $engine
}

# Of a leader in name alone.
proc release_lease {} {
    log_service LOG.RELEASE $::shard [dict get [log_service LOG.STATUS $::shard] epoch] FORCE
}

# --- A server with the module --------------------------------------------------------------------------------------

# Options are the module's configs without their prefix; `server`: a dict of the server's own; `test-module`: arguments with
# which the module for tests is loaded as well (testmodule.c), `test-jobs` the same of testjobs.c.
# The server's own PING, which is in the stream, would move an offset between two looks at it, once in ten seconds.
proc server_options {options} {
    set server [dict create save {} repl-ping-replica-period 3600 loadmodule $::env(DURABILITY_SO)]
    dict set server durability.log [log_address]
    dict set server durability.shard $::shard
    dict for {name value} $options {
        if {$name ni {server test-module test-jobs}} {dict set server durability.$name $value}
    }
    if {[dict exists $options server]} {set server [dict merge $server [dict get $options server]]}
    set lines {}
    if {[dict exists $options test-module]} {
        lappend lines loadmodule "[test_module] [dict get $options test-module]"
    }
    if {[dict exists $options test-jobs]} {
        lappend lines loadmodule "[test_library testjobs] [dict get $options test-jobs]"
    }
    list overrides $server config_lines $lines tags {external:skip tls:skip}
}

# A fresh log service and a server that leads its shard, for as long as `code` runs.
proc durable_server {options code} {
    new_log
    start_log
    uplevel 1 [list start_server [server_options $options] "wait_until_leading\n$code"]
    kill_log
}

# A figure of INFO durability, of the innermost server or of one that many levels out (-1, -2).
proc figure {name {level 0}} {
    getInfoProperty [r $level info durability] durability_$name
}

proc wait_until_leading {} {
    wait_for_condition 1000 10 {[figure role] eq "leader"} else {
        fail "the server does not lead: [figure last_error]"
    }
}

# Until the server has everything that is in the log, and serves reads while another node leads.
proc wait_until_following {{level 0}} {
    wait_for_condition 1000 10 {[s $level master_link_status] eq "up" && [figure role $level] eq "follower"} else {
        fail "the server does not follow: [figure last_error $level]"
    }
}

# As a crash would end it, and a start from its configuration file.
proc crash_and_restart_server {} {
    kill_hard [srv 0 pid]
    restart_server 0 true false
}

proc wait_until_durable {} {
    wait_for_condition 500 10 {[figure pending_bytes] == 0} else {
        fail "not everything becomes durable: [figure last_error]"
    }
}

# --- Ways to connect -------------------------------------------------------------------------------------------------

# Starts a relay, on that port or any. Returns its process and its port.
proc start_relay {kind target {port {}}} {
    if {$port eq ""} {set port [find_available_port $::baseport $::portcount]}
    list [start_relay_on $port $kind $target] $port
}

# Starts a relay on that port. Returns its process.
proc start_relay_on {port kind target} {
    set output [tmpfile relay]
    set pid [exec python3 $::env(SUITE_SUPPORT)/relay.py $port $kind {*}$target >> $output 2>@1 &]
    send_data_packet $::test_server_fd server-spawned [list $pid $output $::curfile]
    return $pid
}

proc stop_relay {pid} {
    kill_hard $pid
    send_data_packet $::test_server_fd server-killed $pid
}

# While `code` runs, the innermost server is reached through a relay to its unix socket or its TLS port, by `r` as well.
proc through_relay {kind target code} {
    lassign [start_relay $kind $target] pid port
    wait_for_condition 1000 10 {[ping_server $::host $port]} else {
        fail "the relay does not start"
    }
    set direct [lindex $::servers end]
    set client [valkey $::host $port]
    $client select 9
    lset ::servers end [dict merge $direct [list port $port client $client]]
    set failed [catch {uplevel 1 $code} result options]
    lset ::servers end $direct
    $client close
    stop_relay $pid
    if {$failed} {return -options $options $result}
}

# Configuration of a server with a TLS port, and what a relay to it needs: {configuration target}.
proc tls_server {} {
    set directory [file normalize [tmpdir tls]]
    set port [find_available_port $::baseport $::portcount]
    exec openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
        -keyout $directory/key.pem -out $directory/certificate.pem 2>@1
    set certificate $directory/certificate.pem
    list [list tls-port $port tls-auth-clients no tls-ca-cert-file $certificate tls-cert-file $certificate \
        tls-key-file $directory/key.pem] [list $::host $port $certificate]
}

# The channel of a replica of the log that asks for all of it and takes nothing.
proc deaf_replica {} {
    set deaf [socket $::host [log_option port]]
    fconfigure $deaf -translation binary -blocking 0
    foreach command [list [list AUTH $::shard x] {REPLCONF version 9.1.2} {PSYNC ? -1}] {
        puts -nonewline $deaf [format_command {*}$command]
    }
    flush $deaf
    return $deaf
}

# --- Held or not ---------------------------------------------------------------------------------------------------

# Runs `code` while the log acknowledges nothing. Then it acknowledges everything, even if `code` failed.
proc while_frozen {code} {
    log_service LOG.DEBUG FREEZE-ACKS $::shard
    set failed [catch {uplevel 1 $code} result options]
    log_service LOG.DEBUG RESUME-ACKS $::shard
    if {$failed} {return -options $options $result}
    return $result
}

proc wait_for_held {count} {
    wait_for_condition 500 10 {[figure held_clients] == $count} else {
        fail "expected $count held clients, there are [figure held_clients]"
    }
}

# Whether something (a reply, or the end of the connection) can be read within that time.
proc is_readable {client milliseconds} {
    set channel [$client channel]
    set ::readable pending
    fileevent $channel readable {set ::readable yes}
    set timer [after $milliseconds {set ::readable no}]
    vwait ::readable
    after cancel $timer
    fileevent $channel readable {}
    expr {$::readable eq "yes"}
}

proc assert_silent {client} {
    # Had a reply left, it would have arrived before this one.
    assert_equal PONG [r ping]
    assert {![is_readable $client 2]}
}

# Sends all commands in one packet. One by one, they could stay in this machine's network for a while: the server of a held
# client sends nothing that would acknowledge the first packet.
proc send_all {client commands} {
    foreach command $commands {$client write [format_command {*}$command]}
    $client flush
}

# What the client is answered, without waiting for ever if it is not: as long as anything takes on a busy machine.
proc read_reply {client} {
    assert {[is_readable $client 30000]}
    $client read
}

# An error counts as a reply.
proc read_any_reply {client} {
    assert {[is_readable $client 30000]}
    catch {$client read} reply
    return $reply
}

# Sends a command while nothing is acknowledged, runs `meanwhile`, sees that the reply is held, and compares it (glob) once
# the log acknowledges.
proc assert_held {expected command {meanwhile {}}} {
    set client [valkey_deferring_client]
    while_frozen {
        uplevel 1 $meanwhile
        set before [figure held_clients]
        $client {*}$command
        wait_for_held [expr {$before + 1}]
        assert_silent $client
    }
    assert_match $expected [read_any_reply $client]
    wait_for_held 0
    $client close
}

# Sends a command in the middle of `while_frozen` and sees that it is answered all the same.
proc assert_not_held {expected command} {
    set client [valkey_deferring_client]
    set held [figure held_clients]
    $client {*}$command
    assert_match $expected [read_any_reply $client]
    assert_equal $held [figure held_clients]
    $client close
}

# Writes a key without waiting for the reply. Returns the client, which is held.
proc dirty_key {key} {
    set client [valkey_deferring_client]
    set before [figure held_clients]
    $client set $key dirty
    wait_for_held [expr {$before + 1}]
    return $client
}

# While one key is dirty and nothing is acknowledged.
proc while_dirty {key code} {
    set failed [catch {
        while_frozen {
            set writer [dirty_key $key]
            uplevel 1 $code
        }
    } result options]
    if {$failed} {return -options $options $result}
    assert_equal OK [read_reply $writer]
    $writer close
}
