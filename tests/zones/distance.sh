#!/usr/bin/env bash
# Measures a SET while zones are a fixed time apart, with the service that decides in the leader's zone and elsewhere. See distance.py.
# Builds the proxy. Takes from the environment what run.sh takes.
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

python_packages valkey==6.1.1 valkey==6.1.1
mkdir -p "$TARGET/distance"
export DELAY_PROXY=${DELAY_PROXY:-$TARGET/distance/delay_proxy}
[ -e "$DELAY_PROXY" ] || rustc --edition 2021 -O "$ROOT/logservice/examples/delay_proxy.rs" -o "$DELAY_PROXY"

exec python3 "$HERE/distance.py" "$@"
