#!/usr/bin/env bash
# Checks that what clients see is linearizable, while server and log service are killed. See --help of the program.
#
#   tests/histories/run.sh [--seconds N | --rounds N | --self-check] [--services 1|3] [--seed S]
#
# --self-check tests a module that is broken on purpose, and succeeds if that is noticed within 60 s.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR, CARGO_TARGET_DIR.
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

arguments=()
for argument in "$@"; do
    if [ "$argument" = --self-check ]; then
        broken_module broken-gate
        export DURABILITY_SO=$BROKEN_MODULE
        arguments+=(--expect-violation --seconds 60)
    else
        arguments+=("$argument")
    fi
done

(cd "$ROOT" && cargo build --quiet --release --workspace --bin durability-histories)
need "$DURABILITY_SO"

# Job control gives the program a process group of its own, in which everything is that it starts.
set -m
"$TARGET/release/durability-histories" "${arguments[@]}" &
checker=$!
set +m
trap 'kill -KILL -- "-$checker" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
wait "$checker"
