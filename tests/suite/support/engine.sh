#!/usr/bin/env bash
# The valkey-server that a log service under test starts. What it does besides is told by files in the directory ENGINE_CONTROL:
#   hold-N      the N-th server waits before it begins, until the file is gone
#   substitute  an RDB that takes the place of each that was found to be sound
#   keep        the configuration of the last server is kept in `configuration`
# The file `started` there gets the pid of each server, a line each.
set -euo pipefail

if [ "$1" = --version ]; then exec "$VALKEY_BIN_DIR/valkey-server" --version; fi
if [ "$1" = - ]; then
    echo $$ >>"$ENGINE_CONTROL/started"
    # Not how many there are: another may have begun meanwhile.
    number=$(grep -n -x "$$" "$ENGINE_CONTROL/started" | tail -n 1 | cut -d : -f 1)
    while [ -e "$ENGINE_CONTROL/hold-$number" ]; do sleep 0.01; done
    if [ -e "$ENGINE_CONTROL/keep" ]; then
        cat >"$ENGINE_CONTROL/configuration"
        exec "$VALKEY_BIN_DIR/valkey-server" - <"$ENGINE_CONTROL/configuration"
    fi
    exec "$VALKEY_BIN_DIR/valkey-server" -
fi
# Every valkey-server is a valkey-check-rdb when it is called so; a script does not learn how it was called.
(exec -a valkey-check-rdb "$VALKEY_BIN_DIR/valkey-server" "$1")
if [ -e "$ENGINE_CONTROL/substitute" ]; then cp "$ENGINE_CONTROL/substitute" "$1"; fi
