# Programs that are to refuse to start.

# Runs a program that is to refuse to start. Returns what it printed.
proc run_refusing {args} {
    # Exit code 124 would be timeout's: the program went on running.
    set failed [catch {exec timeout 3 {*}$args 2>@1} output options]
    assert {$failed}
    lassign [dict get $options -errorcode] kind - status
    assert_equal CHILDSTATUS $kind
    assert_not_equal 124 $status
    return $output
}

# Starts a server with the module and those arguments for it, which it is to refuse. Returns what it printed.
proc start_with_arguments {args} {
    set port [find_available_port $::baseport $::portcount]
    run_refusing $::VALKEY_SERVER_BIN --port $port --save {} --loadmodule $::env(DURABILITY_SO) {*}$args
}
