#!/usr/bin/env bash
# Breaks nodes, links and the log of a shard, or of a cluster, while clients work, and checks what they saw. See --help of the program.
#
#   tests/failover/run.sh [--rounds N] [--seconds 60] [--seed S] [--mode sync|async] [--services 1|3] [--shards 1|3]
#                         [--faults LIST] [--lease-ms MS]
#   tests/failover/run.sh --measure kill|plan --rounds N     how long until another node acknowledges writes
#   tests/failover/run.sh --services 3 --measure decider|follower|zone|two|rolling|distance --rounds N [--lease-ms MS]
#   tests/failover/run.sh --self-check [--services 3 | --shards 3] [--seed S]
#
# --self-check tests two modules that are broken on purpose, and succeeds if that is noticed: one answers after its lease has
# passed, and one before the log has what was written. With --services 3 it is a disk that says it has written, and has not;
# with --shards 3 a module that takes slots back which another shard may have.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR, CARGO_TARGET_DIR; with --services 3,
# LOGSERVICE_FAILPOINTS: cargo build --release --workspace --features logservice/failpoints --bin logservice-failpoints.
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"
export LOGSERVICE_FAILPOINTS=${LOGSERVICE_FAILPOINTS:-$TARGET/release/logservice-failpoints}

self_check=no arguments=()
for argument in "$@"; do
    if [ "$argument" = --self-check ]; then self_check=yes; else arguments+=("$argument"); fi
done

(cd "$ROOT" && cargo build --quiet --release --workspace --bin durability-failover)

# Job control gives the program a process group of its own, in which everything is that it starts.
harness=
trap '[ -z "$harness" ] || kill -KILL -- "-$harness" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
run() { # run ARGUMENT...
    set -m
    "$TARGET/release/durability-failover" "$@" &
    harness=$!
    set +m
    local status=0
    wait "$harness" || status=$?
    harness=
    return $status
}

# check FEATURE ARGUMENT...: in a directory of its own, so that nobody ever takes this module for the real one.
check() {
    local feature=$1
    shift
    broken_module "$feature"
    DURABILITY_SO=$BROKEN_MODULE run --expect-violation --rounds 12 "$@" "${arguments[@]}"
}

if [ $self_check = yes ] && [[ " ${arguments[*]} " = *" --services 3 "* ]]; then
    run --expect-violation --rounds 12 --faults disk-lie --seconds 6 "${arguments[@]}"
elif [ $self_check = yes ] && [[ " ${arguments[*]} " = *" --shards 3 "* ]]; then
    check broken-grant --faults migrate,bus-deaf --seconds 10
elif [ $self_check = yes ]; then
    check broken-lease --faults stop --seconds 8
    check broken-gate --faults kill,blackout --seconds 6
else
    run "${arguments[@]}"
fi
