# What is configured wrongly is said at the start, in words that help.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/refusing.tcl

tags {external:skip tls:skip} {
    foreach {name arguments message} {
        "an unknown mode"                {mode fast}              {*fast*sync*async*off*}
        "an address without a port"      {log localhost}          {*'localhost' is not an address: give host:port*}
        "a port that is none"            {log localhost:99999}    {*'localhost:99999' is not an address*}
        "a shard that cannot be a name"  {shard a/b}              {*'a/b' cannot name a shard*}
        "a node that cannot be a name"   {node-id .hidden}        {*'.hidden' cannot name a node*}
        "TLS without a CA"               {tls yes}                {*durability.tls-ca does not say which CA*}
        "TLS that is neither"            {tls maybe}              {*'maybe' is neither yes nor no*}
        "a CA file that is missing"      {tls-ca /nowhere/ca.crt} {*cannot read the CA file /nowhere/ca.crt*}
        "a certificate that is none"     {tls-cert /dev/null}     {*the certificate file /dev/null cannot be used*}
        "a token and a file of it"       {auth x auth-file /y}    {*durability.auth and durability.auth-file are both set*}
        "an argument nobody knows"       {speed high}             {*unknown loadmodule argument 'speed'*max-lag-ms*}
        "an argument without a value"    {mode}                   {*loadmodule argument 'mode' has no value*}
        "a limit that is too low"        {max-lag-ms 1}           {*max-lag-ms*}
        "a limit that is no number"      {max-lag-ms soon}        {*max-lag-ms*}
    } {
        test "The server does not start with $name" {
            assert_match $message [start_with_arguments {*}$arguments]
        }
    }

    foreach {line message} {
        "durability.log nowhere"    {*'nowhere' is not an address*}
        "durability.max-lag-ms 1"   {*durability.max-lag-ms*}
        "durability.speed high"     {*durability.speed*}
        "durability.tls yes"        {*durability.tls-ca does not say which CA*}
        "durability.tls-key /none"  {*cannot read the key file /none*}
    } {
        test "The server does not start with this line in valkey.conf: $line" {
            set file [tmpfile valkey.conf]
            set channel [open $file w]
            puts $channel "port [find_available_port $::baseport $::portcount]"
            puts $channel "loadmodule $::env(DURABILITY_SO)"
            puts $channel $line
            close $channel
            assert_match $message [run_refusing $::VALKEY_SERVER_BIN $file]
        }
    }

    test "A second log service does not start in a directory that is in use" {
        new_log
        start_log
        set second [log_command]
        set at [lsearch $second --listen]
        set second [lreplace $second $at+1 $at+1 $::host:0]
        set at [lsearch $second --http]
        set second [lreplace $second $at+1 $at+1 $::host:0]
        assert_match {*is in use*LOCK*} [run_refusing {*}$second]
        kill_log
    }

    test "A log service does not start with half of a certificate" {
        new_log
        dict set ::log_service arguments {--tls-cert /nowhere/server.crt}
        assert_match {*--tls-cert needs --tls-key*} [run_refusing {*}[log_command]]
        dict set ::log_service arguments {--tls-cert /nowhere/server.crt --tls-key /nowhere/server.key}
        assert_match {*cannot read the certificate file /nowhere/server.crt*} [run_refusing {*}[log_command]]
    }

    test "A log service does not start with a tokens file that says nothing" {
        set tokens [tmpfile tokens]
        close [open $tokens w]
        new_log
        dict set ::log_service arguments [list --tokens $tokens]
        assert_match {*no token*} [run_refusing {*}[log_command]]
    }
}
