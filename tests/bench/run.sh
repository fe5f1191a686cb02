#!/usr/bin/env bash
# scripts/bench.sh --report: see report.py --help. With --self-check makes a short report, and looks whether all is in it
# (report_test.py); the last line is "N passed, N failed" then.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR, CARGO_TARGET_DIR.
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

REQUIREMENTS=(valkey==6.1.1 matplotlib==3.10.9)
python_packages "bench-$(printf '%s\n' "${REQUIREMENTS[@]}" | sha256sum | cut -c1-16)" "${REQUIREMENTS[@]}"
export BENCH_LOAD=$TARGET/release/durability-bench-load BENCH_ROOT=$ROOT
need "$BENCH_LOAD"
program=report.py
if [ "${1:-}" = --self-check ]; then
    program=report_test.py
    shift
fi
exec python3 "$HERE/$program" "$@"
