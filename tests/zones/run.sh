#!/usr/bin/env bash
# Three log services keep a shard's log, and services, nodes and whole zones die. See zones_test.py; arguments name tests. As the first
# argument, --replace has services replaced (replacement_test.py; REPLACEMENTS says how many one after the other, 2 if it is not set), --disks has
# their disks full, damaged and looked at (disks_test.py), --operate has an operator go on with one of them alone, replace one under
# another name, and choose who decides (operators_test.py), --slots has what a shard is in a Valkey cluster stored and found again by one service
# and by three (slots_test.py), and --grow has a service that is alone become one of three (growing_test.py).
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, LOGSERVICE_FAILPOINTS (with --grow), VALKEY_BIN_DIR,
# CARGO_TARGET_DIR.
# The last line is "N passed, N failed".
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

python_packages valkey==6.1.1 valkey==6.1.1

tests=zones_test.py
case ${1:-} in
--replace) tests=replacement_test.py; shift ;;
--disks) tests=disks_test.py; shift ;;
--operate) tests=operators_test.py; shift ;;
--slots) tests=slots_test.py; shift ;;
--grow)
    tests=growing_test.py
    export LOGSERVICE_FAILPOINTS=${LOGSERVICE_FAILPOINTS:-$TARGET/release/logservice-failpoints}
    need "$LOGSERVICE_FAILPOINTS"
    shift
    ;;
esac
exec python3 "$HERE/$tests" "$@"
