# Names that a test decides on, for the programs that it starts (see names.c).

# While `code` runs, programs that are started look them up in a file first.
proc with_names {code} {
    set ::names [file normalize [tmpfile names]]
    set library [file normalize [tmpfile names.so]]
    exec gcc -std=gnu11 -Wall -Wextra -Werror -O1 -fPIC -shared -o $library $::env(SUITE_SUPPORT)/names.c -ldl
    set ::env(NAMES) $::names
    set ::env(LD_PRELOAD) $library
    set failed [catch {uplevel 1 $code} result options]
    unset ::env(NAMES) ::env(LD_PRELOAD)
    if {$failed} {return -options $options $result}
}

# From now on the name stands for those addresses.
proc name_means {name args} {
    set file [open $::names.new w]
    puts $file "$name $args"
    close $file
    file rename -force $::names.new $::names
}
