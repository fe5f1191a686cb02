#!/usr/bin/env bash
# What to run before each commit, in under a minute from a warm cache: formatting, the direction of imports, what documents name, lints,
# and the unit tests that need no server and no waiting. scripts/test.sh runs everything.
#
#   scripts/check.sh
source "$(dirname "$0")/lib.sh"

need_build_packages
cd "$ROOT"
cargo fmt --all --check
for check in layers paths links reference failures; do
    say "== tests/$check.py"
    python3 "tests/$check.py"
done
say "== lints"
cargo clippy --quiet --workspace --all-targets --features logservice/failpoints -- -D warnings
say "== unit tests"
cargo test --quiet --workspace --features logservice/failpoints --lib
say "passed in $SECONDS s"
