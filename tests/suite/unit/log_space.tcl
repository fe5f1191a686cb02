# A log service whose files may not become as large as a segment is (ulimit -f).

source $::env(SUITE_SUPPORT)/durability.tcl

# Starts the log service with that limit, which can be raised.
proc start_limited_log {kilobytes} {
    set program $::env(LOGSERVICE)
    set limited [file normalize [tmpfile limited-logservice]]
    set file [open $limited w 0755]
    puts $file "#!/bin/bash\nulimit -S -f $kilobytes\nexec $program \"\$@\""
    close $file
    set ::env(LOGSERVICE) $limited
    start_log
    set ::env(LOGSERVICE) $program
}

proc wait_for_log_state {state} {
    wait_for_condition 1000 10 {[dict get [log_service LOG.STATUS $::shard] state] eq $state} else {
        fail "the state of the log is not $state: [log_service LOG.STATUS $::shard]"
    }
}

new_log
start_limited_log 1024
start_server [server_options {}] {
    wait_until_leading

    test "A limit on the size of files counts as a lack of space, and the log goes on when it is raised" {
        set writer [valkey_deferring_client]
        $writer set key value
        wait_for_log_state nospace
        assert_silent $writer
        exec prlimit --pid [log_option pid] --fsize=unlimited:
        assert_equal OK [read_reply $writer]
        $writer close
        wait_for_log_state ok
        crash_and_restart_server
        wait_until_leading
        assert_equal value [r get key]
    }
}
kill_log
