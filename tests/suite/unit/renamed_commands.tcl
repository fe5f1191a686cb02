# A server where commands were renamed that the module or the stream needs has no log, and its operator is told which.

source $::env(SUITE_SUPPORT)/apart.tcl

# Starts a server that is to refuse. Returns what it printed.
proc start_with_rename {mode command new} {
    set file [tmpfile valkey.conf]
    set channel [open $file w]
    puts $channel "port [find_available_port $::baseport $::portcount]"
    puts $channel "save \"\""
    puts $channel "rename-command $command $new"
    puts $channel "loadmodule $::env(DURABILITY_SO) mode $mode log $::host:1"
    close $channel
    # Exit code 124 would be timeout's: the server went on running.
    set failed [catch {exec timeout 30 $::VALKEY_SERVER_BIN $file 2>@1} output options]
    assert {$failed}
    assert_equal CHILDSTATUS [lindex [dict get $options -errorcode] 0]
    assert_not_equal 124 [lindex [dict get $options -errorcode] 2]
    return $output
}

# What the module runs or sends, and what stands in the stream: of each kind of command some, of those that are not for data all.
set needed {
    CONFIG settings  REPLICAOF follow  PSYNC {""}      REPLCONF talk   AUTH login       INFO about   COMMAND commands
    ACL rights       CLIENT {""}       ROLE part       XPENDING rest   XRANGE {""}      SELECT choose
    DUMP {""}
    MULTI begin      EXEC run          PUBLISH tell    PING pong       PFCOUNT guess    SPUBLISH say
    SET put          DEL erase         FLUSHALL {""}   HSET {""}       UNLINK drop      FUNCTION code
}

tags {external:skip tls:skip} {
    foreach mode {sync async} {
        foreach {command new} $needed {
            test "The server does not start in mode $mode where $command is renamed to $new" {
                assert_match "*rename-command*$command*" [start_with_rename $mode $command $new]
            }
        }
    }

    new_log
    start_log
    foreach {command new} $needed {
        test "In mode off it starts where $command is renamed to $new, and is not switched on" {
            set port [find_available_port $::baseport $::portcount]
            node_apart off [list "durability.mode off" "port $port" "rename-command $command $new"] [list -h $::host -p $port]
            start_apart off
            wait_for_condition 1000 10 {[ask off echo served] eq "served"} else {
                fail "it does not serve: [output_apart off]"
            }
            foreach mode {sync async} {
                assert_match "ERR*rename-command*$command*use ACLs*" [ask off durability.mode $mode]
            }
            assert_equal off [ask off durability.mode]
            assert_match *role*off* [ask off durability.status]
            kill_apart off
        }
    }
    kill_log
}

durable_server {server {rename-command {keys dontcall}}} {
    test "What no stream holds may be renamed" {
        assert_equal OK [r set key value]
        assert_equal key [r dontcall *]
    }
}

durable_server {server {rename-command {scan {""}}}} {
    test "An audit that lacks a command says which" {
        assert_equal OK [r set key value]
        assert_error "*SCAN*" {log_service LOG.AUDIT $::shard}
    }
}
