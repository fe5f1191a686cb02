# Engines of the log service that do what a test says, and what is known of them.

set ::engine $::env(VALKEY_BIN_DIR)/valkey-server

# Arguments for an engine that does what the test says by files (see engine.sh).
proc controlled_engine {} {
    set ::env(ENGINE_CONTROL) [file normalize [tmpdir engine]]
    list --valkey-server $::env(SUITE_SUPPORT)/engine.sh
}

proc touch {file} {
    close [open $file w]
}

# The pids of the engines that were started since the last `while_engine_waits`.
proc engines {} {
    set started $::env(ENGINE_CONTROL)/started
    if {![file exists $started]} {return {}}
    split [exec cat $started] \n
}

# Asks for a snapshot and runs `code` while its n-th engine is held: the 1st makes it, the 2nd rehearses. Returns the reply.
proc while_engine_waits {number code} {
    set hold $::env(ENGINE_CONTROL)/hold-$number
    file delete $::env(ENGINE_CONTROL)/started
    touch $hold
    set client [valkey $::host [log_option port] 1]
    $client LOG.SNAPSHOT $::shard
    wait_for_condition 6000 10 {[llength [engines]] == $number} else {
        fail "the engine is not started"
    }
    set failed [catch {uplevel 1 $code} result options]
    file delete $hold
    if {$failed} {return -options $options $result}
    set reply [read_any_reply $client]
    $client close
    return $reply
}

# Whether the process runs; one that has ended and that nobody has waited for does not.
# How a process is scheduled, and its nice value: {TS 0} is what a process has that asks for nothing.
proc scheduling {pid} {
    lassign [exec ps -o cls=,ni= -p $pid] class nice
    list $class [expr {$class eq "IDL" ? 0 : $nice}]
}

proc is_running {pid} {
    expr {![catch {exec ps -o stat= -p $pid} state] && ![string match Z* $state]}
}
