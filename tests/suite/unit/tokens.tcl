# The token that a node shows to its log, and what becomes of the node when that changes.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

proc write_file {path text {mode 0600}} {
    # In one step, as nobody is to read half of it.
    set channel [open $path.new w $mode]
    puts $channel $text
    close $channel
    file attributes $path.new -permissions $mode
    file rename -force $path.new $path
}

# A log service that takes the tokens of those lines.
proc start_log_with_tokens {lines} {
    set ::tokens [file normalize [tmpfile tokens]]
    write_file $::tokens $lines
    new_log
    dict set ::log_service arguments [list --tokens $::tokens]
    start_log
}

proc log_lines {pattern} {
    llength [lsearch -all -glob [split [exec cat [log_option directory].output] "\n"] $pattern]
}

proc reload_tokens {lines} {
    set before [log_lines "*tokens reloaded*"]
    write_file $::tokens $lines
    exec kill -HUP [log_option pid]
    wait_for_condition 500 10 {[log_lines "*tokens reloaded*"] > $before} else {
        fail "the tokens are not read again"
    }
}

proc wait_for_error {pattern} {
    wait_for_condition 1000 10 {[string match $pattern [figure last_error]]} else {
        fail "the last error is '[figure last_error]', not $pattern"
    }
}

set first first-token-of-the-nodes
set second second-token-of-the-nodes
set clients the-token-of-the-clients
set file [file normalize [tmpfile token]]

start_log_with_tokens "$::shard $first\n$::shard $clients discover"
start_server [server_options [list auth-file $file]] {
    test "A file of a token that is not there yet is waited for" {
        wait_for_error "*cannot read the file of the token, durability.auth-file $file: *"
        assert_error {LOADING*} {r get key}
        write_file $file ""
        wait_for_error "*durability.auth-file $file, is empty*"
        write_file $file $clients
        wait_for_error {*NOPERM LOG.CHECK needs a token with the role node, and this one's is discover*}
        write_file $file $first
        wait_until_leading
        assert_equal OK [r set key 1]
        assert_equal {} [figure last_error]
    }

    test "A file that others can read is warned of, once" {
        set warning "*the file of the token $file has mode 0644*chmod 600*"
        assert_equal 0 [count_log_message 0 "has mode 0644"]
        write_file $file $first 0644
        # Each connection reads it.
        for {set round 0} {$round < 2} {incr round} {
            kill_log
            start_log
            assert_equal OK [r set key $round]
        }
        verify_log_message 0 $warning 0
        assert_equal 1 [count_log_message 0 "has mode 0644"]
        write_file $file $first
    }

    test "The token in a file and another one are refused together, and nothing changes" {
        assert_error {*durability.auth and durability.auth-file are both set*} {r config set durability.auth $second}
        assert_equal {durability.auth {}} [r config get durability.auth]
        assert_equal OK [r config set durability.auth $first durability.auth-file {}]
        assert_error {*durability.auth and durability.auth-file are both set*} {r config set durability.auth-file $file}
        assert_equal OK [r config set durability.auth {} durability.auth-file $file]
    }

    test "A file that cannot be used is refused when it is set" {
        assert_error {*cannot read the file of the token, durability.auth-file /nowhere/token*} {
            r config set durability.auth-file /nowhere/token
        }
        assert_error {*is not a plain file*} {r config set durability.auth-file /tmp}
        assert_equal "durability.auth-file $file" [r config get durability.auth-file]
    }

    test "A token is exchanged while its node leads" {
        set epoch [figure epoch]
        reload_tokens "$::shard $first\n$::shard $second\n"
        write_file $file $second
        set client [valkey_deferring_client]
        for {set write 0} {$write < 100} {incr write} {$client incr counter}
        reload_tokens "$::shard $second\n"
        for {set write 0} {$write < 100} {incr write} {$client incr counter}
        for {set write 1} {$write <= 200} {incr write} {assert_equal $write [$client read]}
        $client close
        assert_equal leader [figure role]
        assert_equal $epoch [figure epoch]
    }

    test "A leader whose token is gone acknowledges nothing, and goes on with one that is there" {
        set epoch [figure epoch]
        reload_tokens "$::shard $first\n"
        set client [valkey_deferring_client]
        $client set key held
        wait_for_error *NOAUTH*
        assert_silent $client
        write_file $file $first
        assert_equal OK [read_reply $client]
        assert_equal $epoch [figure epoch]
        $client close
    }

    test "The log warns of tokens that can be guessed, and of a file of tokens that others can read" {
        assert_equal 0 [log_lines "*of fewer than 16 bytes*"]
        reload_tokens "$::shard $first\n# nothing\n$::shard short discover\n"
        assert_equal 1 [log_lines "*tokens of fewer than 16 bytes can be guessed, in line 3:*"]
        write_file $::tokens "$::shard $first" 0644
        exec kill -HUP [log_option pid]
        wait_for_condition 500 10 {[log_lines "*the tokens file $::tokens has mode 0644*"] == 1} else {
            fail "there is no warning"
        }
    }

    test "The token is in neither SLOWLOG nor the server's log" {
        r config set slowlog-log-slower-than 0
        r config set durability.auth-file $file
        assert_no_match "*$first*" [r slowlog get 100]
        assert_equal 0 [count_log_message 0 $first]
        assert_equal 0 [log_lines "*$first*"]
    }
}
kill_log

start_log_with_tokens "$::shard $first"
write_file $file $first
set options [list failover yes lease-ms 1000 auth-file $file]
start_server [server_options [list {*}$options node-id n1 announce $::host:10001]] {
    start_server [server_options [list {*}$options node-id n0 announce $::host:10000]] {
        test "A follower goes on with another token" {
            set leader [wait_for_shard]
            on $leader set key 1
            reload_tokens "$::shard $first\n$::shard $second\n"
            write_file $file $second
            reload_tokens "$::shard $second\n"
            on $leader set key 2
            set other [expr {$leader eq "n0" ? "n1" : "n0"}]
            wait_for_condition 2000 10 {[on $other get key] eq "2"} else {
                fail "no write arrives: [figure_of $other last_error]"
            }
            assert_equal $leader [wait_for_shard]
        }

        test "When the token of the leader is taken away another node leads, and it serves nobody until it has one" {
            set leader [wait_for_shard]
            set other [expr {$leader eq "n0" ? "n1" : "n0"}]
            wait_until_known $leader $other
            set own [file normalize [tmpfile token]]
            write_file $own $first
            assert_equal OK [on $other config set durability.auth-file $own]
            reload_tokens "$::shard $first\n"
            wait_for_role leader $other
            assert_equal OK [on $other set key 3]
            catch {on $leader get key} told
            assert_match {*durability:*} $told
            assert_match *NOAUTH* [figure_of $leader last_error]
            write_file $file $first
            assert_equal $other [wait_for_shard]
            assert_equal 3 [on $leader get key]
        }
    }
}
kill_log
