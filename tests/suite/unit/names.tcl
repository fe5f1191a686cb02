# The log is named by a name, and the system takes long to resolve it.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

# Path of slow_names.c as a library.
proc slow_names {} {
    set library [file normalize slow_names.so]
    if {![file exists $library]} {
        set partial $library.[pid]
        exec gcc -std=gnu11 -Wall -Wextra -Werror -O1 -fPIC -shared -o $partial $::env(SUITE_SUPPORT)/slow_names.c -ldl 2>@1
        file rename -force $partial $library
    }
    return $library
}

proc stop_resolving {} {
    close [open $::env(SLOW_NAMES) w]
}

proc resolve_again {} {
    file delete $::env(SLOW_NAMES)
}

# A log service, and a server that knows it by name and leads its shard, for as long as `code` runs.
proc server_by_name {options code} {
    set ::env(SLOW_NAMES) [file normalize [tmpfile slow-names]]
    set ::env(LD_PRELOAD) [slow_names]
    new_log
    start_log
    dict set options log log.test:[log_option port]
    uplevel 1 [list start_server [server_options $options] "wait_until_leading\n$code"]
    resolve_again
    kill_log
    unset ::env(LD_PRELOAD) ::env(SLOW_NAMES)
}

server_by_name {failover yes lease-ms 10000} {
    test "While its name is not resolved the log is reached where it was, and the lease kept" {
        assert_equal OK [r set key before]
        stop_resolving
        kill_log
        start_log
        wait_for_condition 1000 30 {[catch {on n0 set key after}] == 0} else {
            fail "no write is acknowledged: [on n0 info durability]"
        }
        resolve_again
        wait_for_condition 1000 30 {![catch {r ping}] || [reconnect] ne ""} else {fail "it is gone"}
        assert_equal leader [figure role]
    }

    test "A leader that is shut down while its log's name is not resolved gives its lease back" {
        stop_resolving
        set lines [count_log_lines 0]
        catch {r shutdown now}
        wait_for_condition 3000 10 {![is_alive [srv 0 pid]]} else {fail "the server does not end"}
        assert_equal {} [dict get [log_service LOG.STATUS $::shard] leader]
        verify_no_log_message 0 "*does not end in time*" $lines
        resolve_again
        restart_server 0 true false
        wait_until_leading
        assert_equal after [on n0 get key]
    }
}
