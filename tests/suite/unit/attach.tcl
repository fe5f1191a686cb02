# While a node attaches to a log that answers, its clients wait; if the log does not answer, they are told soon.

source $::env(SUITE_SUPPORT)/durability.tcl

# Starts the server again, which was killed, with a client that sends a command as soon as the port opens. Returns the
# milliseconds that the reply took, and the reply.
proc start_with_first_client {args} {
    set output [tmpfile first-client]
    exec python3 $::env(SUITE_SUPPORT)/first_client.py [srv 0 host] [srv 0 port] {*}$args > $output 2>@1 &
    restart_server 0 false false 0
    wait_for_condition 1000 10 {[regexp {^(\d+) (.*)\n$} [exec cat $output]\n _ milliseconds reply]} else {
        fail "the first client is not answered: [exec cat $output]"
    }
    reconnect
    r select 0
    list $milliseconds $reply
}

# What the environment says of proxies is not for the log, to which the token goes and all data.
set ::env(http_proxy) http://127.0.0.1:1
set ::env(all_proxy) http://127.0.0.1:1
durable_server {} {
    test "The log is seeded directly, whatever proxy the environment names" {
        r durability.mode off
        r set unlogged value
        set seeds [figure seeds]
        r durability.mode sync
        wait_until_leading
        wait_for_condition 500 10 {[figure seeds] > $seeds} else {
            fail "the log is not seeded: [figure last_error]"
        }
    }
}
unset ::env(http_proxy) ::env(all_proxy)

# A log service without any data, in place of the one that runs.
proc empty_log {} {
    kill_log
    file delete -force [log_option directory]
    start_log
}

durable_server {} {
    # That of a client that selects none.
    r select 0
    foreach mode {sync async} {
        r durability.mode $mode
        r config rewrite

        test "The first write to a new node with an empty log is answered, not refused ($mode)" {
            kill_hard [srv 0 pid]
            empty_log
            lassign [start_with_first_client set first 1] _ reply
            assert_equal +OK $reply
            wait_until_leading
            assert_equal $mode [figure mode]
            assert_equal 1 [r get first]
            assert_equal 0 [figure refused_commands]
        }

        test "The first write to a node that takes its data from the log is answered, not refused ($mode)" {
            r set kept value
            wait_until_durable
            kill_hard [srv 0 pid]
            lassign [start_with_first_client append kept -and-more] _ reply
            # It had its data by then.
            assert_equal :14 $reply
            wait_until_leading
            assert_equal value-and-more [r get kept]
            assert_equal 0 [figure refused_commands]
            r del kept
        }
    }
    r durability.mode sync
    r config rewrite

    # Refused is what would not be answered while data is loaded; the limit is a second.
    foreach {what stop go} {
        "stands still"  {pause_process [log_option pid]}    {resume_process [log_option pid]}
        "is away"       {kill_log}                          {start_log}
    } {
        test "A node whose log $what tells its clients -LOADING soon, and attaches when the log answers" {
            kill_hard [srv 0 pid]
            eval $stop
            lassign [start_with_first_client set first 2] milliseconds reply
            eval $go
            assert_match -LOADING* $reply
            assert_lessthan $milliseconds 1800
            wait_until_leading
            assert_equal 1 [r get first]
            assert_held OK {set first 1}
        }
    }

    # Sent in one packet, the second would be refused with -LOADING: the server has read it already.
    test "The client that switches a node on again may write right after" {
        r durability.mode off
        r set kept off
        set client [valkey_deferring_client]
        set refused [figure refused_commands]
        $client durability.mode sync
        assert_equal OK [read_reply $client]
        $client set kept on
        assert_equal OK [read_any_reply $client]
        wait_until_leading
        assert_equal $refused [figure refused_commands]
        $client close
    }
}
