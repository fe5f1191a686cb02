# The module testmodule.c, which is built when a unit first asks for it. Servers load it by the option `test-module`.

# Its path. Units run side by side, so the file appears as a whole.
proc test_module {} {
    set library [file normalize testmodule.so]
    if {![file exists $library]} {
        set partial $library.[pid]
        exec gcc -std=gnu11 -Wall -Wextra -Werror -O1 -g -fPIC -shared -I $::env(VALKEY_SOURCE)/src -o $partial \
            $::env(SUITE_SUPPORT)/testmodule.c 2>@1
        file rename -force $partial $library
    }
    return $library
}
