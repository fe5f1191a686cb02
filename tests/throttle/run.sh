#!/usr/bin/env bash
# Shows what durability.throttle does with a log at a third of its writers' pace: see measure.py --help.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR.
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

python_packages valkey==6.1.1 valkey==6.1.1
exec python3 "$HERE/measure.py" "$@"
