# Nodes that the framework's own clients may not reach: each is started from a configuration file of its own, and asked by
# valkey-cli.

source $::env(SUITE_SUPPORT)/durability.tcl

# A node of the log's shard with those lines of configuration; `reach` is what valkey-cli needs to reach it.
proc node_apart {node lines reach} {
    set directory [file normalize [tmpdir apart]]
    set file [open $directory/valkey.conf w]
    puts $file "dir $directory\nsave \"\"\nloadmodule $::env(DURABILITY_SO)"
    puts $file "durability.log [log_address]\ndurability.shard $::shard"
    puts $file [join $lines \n]
    close $file
    set ::apart($node) [dict create directory $directory reach $reach pid 0]
}

proc start_apart {node} {
    set directory [dict get $::apart($node) directory]
    set pid [exec $::env(VALKEY_BIN_DIR)/valkey-server $directory/valkey.conf >> $directory/output 2>@1 &]
    send_data_packet $::test_server_fd server-spawned [list $pid $directory/output $::curfile]
    dict set ::apart($node) pid $pid
}

proc kill_apart {node} {
    set pid [dict get $::apart($node) pid]
    kill_hard $pid
    send_data_packet $::test_server_fd server-killed $pid
}

# What the node answers, also if that is an error.
proc ask {node args} {
    catch {exec $::env(VALKEY_BIN_DIR)/valkey-cli {*}[dict get $::apart($node) reach] {*}$args 2>@1} answer
    return $answer
}

# A figure of INFO durability.
proc figure_apart {node name} {
    if {[regexp -line "^durability_$name:(.*?)\r?\$" [ask $node info durability] _ value]} {return $value}
}

proc output_apart {node} {
    exec cat [dict get $::apart($node) directory]/output
}

proc wait_for_role_apart {role node} {
    wait_for_condition 1000 30 {[figure_apart $node role] eq $role} else {
        fail "$node is not $role, but: [ask $node info durability]\n[exec tail -n 20 [dict get $::apart($node) directory]/output]"
    }
}
