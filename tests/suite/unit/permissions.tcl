# Who may run DURABILITY.*: the server's ACLs, alone, in transactions and in scripts.

source $::env(SUITE_SUPPORT)/durability.tcl

# Runs code with $client logged in as a user with those rules.
proc as_user {rules code} {
    upvar 1 client client
    r acl setuser someone reset on nopass ~* &* {*}$rules
    set client [valkey_client]
    $client auth someone any
    uplevel 1 $code
    $client close
    r acl deluser someone
}

proc assert_refused {client args} {
    assert_error {NOPERM*} {$client {*}$args}
}

durable_server {} {
    test "Changing the mode is in the categories of what is dangerous, looking at the lag is not" {
        foreach category {admin dangerous durability} {
            assert {"durability.mode" in [r acl cat $category]}
        }
        foreach name {durability.lag durability.help} {
            assert {$name in [r acl cat durability]}
            foreach category {admin dangerous write} {assert {$name ni [r acl cat $category]}}
        }
    }

    test "By their categories, the status is for whom INFO is, as it shows the same" {
        foreach category [r acl cat] {
            if {$category eq "durability"} continue
            set members [r acl cat $category]
            assert_equal [list $category [expr {"info" in $members}]] [list $category [expr {"durability.status" in $members}]]
        }
        foreach {rules may} {
            {+@all -@dangerous} 0   {+@all -@slow} 0   {+@read +@write} 0   +@fast 0   {+@dangerous -@durability +info} 0
            +@dangerous 1           +@slow 1           {+@all -@admin} 1    +@all 1    {+info +durability.status} 1
        } {
            as_user $rules {
                if {$may} {
                    assert_match {*durability_mode:sync*} [$client info durability]
                    assert_equal sync [dict get [$client durability.status] mode]
                } else {
                    assert_refused $client durability.status
                    if {"+info" ni $rules} {assert_refused $client info durability}
                }
            }
        }
    }

    test "A user without permission gets NOPERM from each command" {
        as_user {+@all -@durability} {
            foreach command {durability.mode {durability.mode off} durability.lag {durability.lag history} durability.status durability.help} {
                assert_refused $client {*}$command
            }
            assert_match {*durability_mode:sync*} [$client info durability]
        }
        as_user {+@read +@write} {
            assert_equal OK [$client set key value]
            foreach command {durability.mode durability.lag durability.status} {assert_refused $client {*}$command}
        }
    }

    test "A user who may not do what is dangerous sees the lag, and cannot change the mode" {
        foreach rules {{+@durability -@dangerous} {+@all -@dangerous} {+@all -@admin}} {
            as_user $rules {
                assert_equal 0 [$client durability.lag]
                assert {[llength [$client durability.lag history]] <= 600}
                assert_match {*DURABILITY.LAG*} [$client durability.help]
                assert_refused $client durability.mode async
            }
        }
        assert_equal sync [r durability.mode]
    }

    test "Changing the mode takes the permission for CONFIG SET as well" {
        as_user {+@durability +config|get} {
            assert_equal sync [$client durability.mode]
            assert_refused $client durability.mode async
        }
        as_user {+durability.mode +config|set} {
            assert_equal OK [$client durability.mode async]
            assert_equal OK [$client durability.mode sync]
        }
    }

    test "Permissions hold in transactions" {
        as_user {+@all -durability.mode} {
            $client multi
            assert_refused $client durability.mode async
            assert_error {EXECABORT*} {$client exec}
        }
        as_user {+@all -config|set} {
            $client multi
            $client set key value
            $client durability.mode async
            assert_error {NOPERM*} {$client exec}
        }
        # Taken away while the transaction waits.
        as_user {+@all} {
            $client multi
            $client durability.mode async
            r acl setuser someone -durability.mode
            assert_error {*NOPERM*} {$client exec}
        }
        assert_equal sync [r durability.mode]
    }

    test "Permissions hold in scripts and functions" {
        set script {return server.call('durability.mode', 'async')}
        r function load {#!lua name=modes
            server.register_function('mode', function() return server.call('durability.mode', 'async') end)}
        foreach {rules error} {
            {+@all -durability.mode} {*ACL failure in script*}
            {+@all -@durability} {*ACL failure in script*}
            {+@all -config|set} {*NOPERM*}
        } {
            as_user $rules {
                assert_error $error {$client eval $script 0}
                assert_error $error {$client fcall mode 0}
            }
        }
        as_user {+@all -@durability} {
            assert_error {*ACL failure in script*} {$client eval {return server.call('durability.status')} 0}
        }
        assert_equal sync [r durability.mode]
    }

    test "A user who may run nothing of the module is told why a write is refused" {
        r config set durability.max-lag-ms 100
        log_service log.debug freeze-acks $::shard
        set held [valkey_deferring_client]
        $held set key held
        as_user {+@all -@durability} {
            wait_for_condition 500 10 {[figure lag_ms] > 200} else {fail "nothing is behind"}
            assert_error {CLUSTERDOWN durability: writes are refused*} {$client set key value}
        }
        log_service log.debug resume-acks $::shard
        assert_equal OK [read_reply $held]
        $held close
        r config set durability.max-lag-ms 10000
    }
}
