# A log service with snapshots: starting one, and looking at what it keeps.

# A fresh log service with more arguments, and a server that leads its shard, for as long as `code` runs.
proc snapshotted_server {arguments options code} {
    new_log
    dict set ::log_service arguments $arguments
    start_log
    uplevel 1 [list start_server [server_options $options] "wait_until_leading\n$code"]
    kill_log
}

proc log_status {field} {
    dict get [log_service LOG.STATUS $::shard] $field
}

# What the log service has printed.
proc log_output {} {
    exec cat [log_option directory].output
}

proc snapshot {} {
    lassign [log_service LOG.SNAPSHOT $::shard] offset bytes
    return $offset
}

proc recorded_files {} {
    set manifest [exec cat [log_option directory]/shards/$::shard/MANIFEST]
    lsort [lmap {_ file} [regexp -all -inline {"file": ?"([^"]*)"} $manifest] {set file}]
}

# All that is there, named as what is recorded is.
proc snapshot_files {} {
    lsort [glob -nocomplain -directory [log_option directory]/snapshots -tails */* */*/*]
}

proc crash_and_restart_both {} {
    wait_until_durable
    kill_log
    kill_hard [srv 0 pid]
    start_log
    restart_server 0 true false
    wait_until_leading
}

# Bytes that do not compress.
proc random_bytes {count} {
    set file [open /dev/urandom rb]
    set bytes [read $file $count]
    close $file
    return $bytes
}

proc change_byte {file position} {
    set channel [open $file r+b]
    seek $channel $position
    set byte [read $channel 1]
    seek $channel $position
    puts -nonewline $channel [binary format c [expr {([scan $byte %c] ^ 1) & 0xff}]]
    close $channel
}

proc check_log {} {
    catch {exec $::env(LOGSERVICE) check [log_option directory]} output
    return $output
}
