#!/usr/bin/env bash
# The status page of the log service, in a headless Chromium: three log services and two nodes in the states that an operator has to tell
# apart. See page_test.py; arguments name tests. With --screenshots as the first argument, the states are also kept as pictures in
# docs/status-page/. Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR.
# What it fetches is kept, so it needs no network the second time. The last line is "N passed, N failed".
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"
(source "$ROOT/scripts/lib.sh" && need_packages chromium-headless-shell fonts-dejavu-core)

# The last one is fetched for the axe-core 4.12.1 that it holds, so what it needs itself is not.
REQUIREMENTS=(valkey==6.1.1 websockets==17.4 axe-playwright-python==0.1.8)
python_packages "status-page-$(printf '%s\n' "${REQUIREMENTS[@]}" | sha256sum | cut -c1-16)" --no-deps "${REQUIREMENTS[@]}"

if [ "${1:-}" = --screenshots ]; then
    export SCREENSHOTS=$ROOT/docs/status-page
    mkdir -p "$SCREENSHOTS"
    shift
fi
exec python3 "$HERE/page_test.py" "$@"
