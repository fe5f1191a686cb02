# The modules testmodule.c and testjobs.c, which are built when a unit first asks for them. Servers load them by the options `test-module`
# and `test-jobs`.

proc test_module {} {
    test_library testmodule
}

# The path of what is built of that source. Units run side by side, so the file appears as a whole.
proc test_library {name} {
    set library [file normalize $name.so]
    if {![file exists $library]} {
        set partial $library.[pid]
        exec gcc -std=gnu11 -Wall -Wextra -Werror -O1 -g -fPIC -shared -I $::env(VALKEY_SOURCE)/src -o $partial \
            $::env(SUITE_SUPPORT)/$name.c 2>@1
        file rename -force $partial $library
    }
    return $library
}
