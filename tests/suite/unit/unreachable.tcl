# A log that a node cannot reach: the node says what it tries and what comes of it, once, and does not try all the time.

source $::env(SUITE_SUPPORT)/apart.tcl
source $::env(SUITE_SUPPORT)/names.tcl

# A node of that log, whose address is `address`.
proc node_of {address} {
    set port [find_available_port $::baseport $::portcount]
    node_apart alone [list "port $port" "durability.log $address"] [list -h $::host -p $port]
    start_apart alone
}

proc wait_for_error_apart {pattern} {
    wait_for_condition 1000 30 {[string match $pattern [figure_apart alone last_error]]} else {
        fail "the last error is '[figure_apart alone last_error]', not '$pattern'"
    }
    assert_match *$pattern* [ask alone durability.status]
}

# That many seconds later the server's log has the error once, and the node refuses as one that attaches.
proc assert_told_once {pattern seconds} {
    after [expr {$seconds * 1000}]
    set lines [lsearch -all -inline [split [output_apart alone] \n] *durability:*$pattern*]
    assert_equal 1 [llength $lines]
    assert_match "*trying again" [lindex $lines 0]
    assert_match $pattern [figure_apart alone last_error]
    assert_match "LOADING durability:*" [ask alone get key]
}

# Within that many seconds no warning of the module is written twice.
proc assert_nothing_is_told_twice {seconds} {
    set before [llength [warnings]]
    after [expr {$seconds * 1000}]
    set told [lrange [warnings] $before end]
    assert_equal [llength [lsort -unique $told]] [llength $told]
}

# The module's warnings in the server's log, without their times.
proc warnings {} {
    lmap {_ text} [regexp -all -inline -line {# <module> (durability:.*)$} [output_apart alone]] {set text}
}

proc assert_leads {} {
    wait_for_role_apart leader alone
    assert_equal OK [ask alone set key value]
    wait_for_condition 1000 30 {[figure_apart alone last_error] eq ""} else {
        fail "the last error is '[figure_apart alone last_error]'"
    }
}

proc assert_leads_without_error {} {
    assert_leads
    kill_apart alone
}

# A process that holds the log's port, until it is killed.
proc occupy_port {kind} {
    set output [tmpfile occupied]
    set pid [exec python3 $::env(SUITE_SUPPORT)/silent_port.py [log_option port] $kind > $output 2>@1 &]
    send_data_packet $::test_server_fd server-spawned [list $pid $output $::curfile]
    list $pid $output
}

proc release_port {pid} {
    kill_hard $pid
    send_data_packet $::test_server_fd server-killed $pid
}

tags {external:skip tls:skip} {
    with_names {
        test "A log whose name is unknown is named, once, and attached to when the name is known" {
            name_means log.test
            new_log
            node_of log.test:[log_option port]
            set error "the log service at log.test:[log_option port] cannot be reached: *Name or service not known*"
            wait_for_error_apart $error
            assert_told_once $error 5
            start_log
            name_means log.test $::host
            assert_leads_without_error
            kill_log
        }
    }

    test "A log that refuses connections is named, once" {
        new_log
        node_of [log_address]
        set error "the log service at [log_address] cannot be reached: Connection refused*"
        wait_for_error_apart $error
        assert_told_once $error 5
        start_log
        assert_leads_without_error
        kill_log
    }

    test "A log to which connecting never ends is named, once" {
        new_log
        lassign [occupy_port full] pid output
        wait_for_condition 1000 30 {[file size $output] > 0} else {fail "the port is not full"}
        node_of [log_address]
        set error "the log service at [log_address] cannot be reached: *timed out*"
        wait_for_error_apart $error
        assert_told_once $error 5
        release_port $pid
        start_log
        assert_leads_without_error
        kill_log
    }

    test "A log that takes connections and never answers is named, once" {
        new_log
        start_log
        pause_process [log_option pid]
        node_of [log_address]
        set error "the log service at [log_address] cannot be reached: no answer in time*"
        wait_for_error_apart $error
        # Each answer has 5 s.
        assert_told_once $error 12
        resume_process [log_option pid]
        assert_leads_without_error
        kill_log
    }

    test "Something that hangs up at once is named, and neither connected to nor written of all the time" {
        new_log
        lassign [occupy_port hangs-up] pid output
        node_of [log_address]
        wait_for_error_apart "the log service at [log_address] cannot be reached: *"
        set tries [llength [split [exec cat $output] \n]]
        # Is it closed or reset, when reading or writing: that changes from time to time.
        assert_nothing_is_told_twice 8
        # With waits of 0.1, 0.2, 0.4, 0.8, 1.6 s and then 2 s.
        assert_range [expr {[llength [split [exec cat $output] \n]] - $tries}] 1 9
        release_port $pid
        start_log
        assert_leads
    }

    test "A leader whose log is such a thing meanwhile writes of it no more often" {
        kill_log
        lassign [occupy_port hangs-up] pid output
        wait_for_error_apart "*the log service*"
        assert_nothing_is_told_twice 6
        release_port $pid
        start_log
        wait_for_condition 1000 30 {[ask alone set key other] eq "OK"} else {fail "it does not acknowledge"}
        assert_leads_without_error
        kill_log
    }

    test "A follower whose log goes away says so, once, and nothing more when it is back" {
        new_log
        start_log
        node_of [log_address]
        wait_for_role_apart leader alone
        assert_equal OK [ask alone set key value]
        kill_apart alone
        hold_lease
        start_apart alone
        wait_for_role_apart follower alone
        kill_log
        set error "the log service at [log_address] cannot be reached: Connection refused*"
        wait_for_error_apart $error
        after 4000
        assert_equal 1 [llength [lsearch -all [split [output_apart alone] \n] *durability:*$error]]
        start_log
        release_lease
        assert_leads_without_error
        kill_log
    }
}
