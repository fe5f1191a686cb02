#!/usr/bin/env bash
# Runs all tests: formatting, the crates that are used (scripts/dependencies.sh), the documents (table of failures, reference, links), lints,
# unit tests, integration tests in Valkey's own framework, snapshots in an object store, clients that find the leader, a cluster, crash test, the oracle that compares a leader with nodes that have only its stream, the
# comparison of what clients receive with a plain server, the checker of histories, the harness of faults, and a part of Valkey's own suite
# with the module loaded.
# Installs, fetches and builds what is missing. The last line sums up.
#
#   scripts/test.sh [--rounds N]     rounds of the crash test, 20 unless told
source "$(dirname "$0")/lib.sh"

rounds=20
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=${2:?--rounds takes a number}; shift 2 ;;
    *) die "usage: scripts/test.sh [--rounds N]" ;;
    esac
done

# What is built once need not be ready to be built again in part.
if [ -n "${CI:-}" ]; then export CARGO_INCREMENTAL=0; fi
need_build_packages
need_packages tcl openssl procps
command -v python3 >/dev/null || need_packages python3
python3 -m pip --version >/dev/null 2>&1 || need_packages python3-pip
cd "$ROOT"
VALKEY_BIN_DIR=$(scripts/valkey.sh)
VALKEY_SOURCE=$(scripts/valkey.sh --source)
export VALKEY_BIN_DIR VALKEY_SOURCE
export DURABILITY_SO=$ROOT/target/release/libvalkey_durability.so
export LOGSERVICE=$ROOT/target/release/logservice
export LOGSERVICE_FAILPOINTS=$ROOT/target/release/logservice-failpoints

work=$(mktemp -d)
beside=
trap '[ -z "$beside" ] || kill -KILL -- "-$beside" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# How Valkey's framework, cargo, the drivers and Python begin a line that tells of a failure.
failure_lines='^\[(err|exception|TIMEOUT)\]: |^test .* FAILED|panicked at|^error|FAILED|^FAIL|^not ok|^Traceback|NOT LINEARIZABLE'

# count_cpu_s: sets cpu_s to the processor seconds of what this shell has waited for so far.
count_cpu_s() {
    local file=$work/times.$BASHPID
    times >"$file"
    cpu_s=$(awk -F '[ms ]' 'NR == 2 { printf "%d", $1 * 60 + $2 + $4 * 60 + $5 }' "$file")
}

# step NAME COMMAND...: runs it, shows its output, and keeps its closing counts for the sum.
step() {
    local name=$1 started=$SECONDS cpu_before status=0 file passed failed
    file=$(mktemp "$work/step.XXXXXX")
    shift
    count_cpu_s
    cpu_before=$cpu_s
    say "== $name"
    "$@" 2>&1 | tee "$file.output" || status=$?
    # "N passed, N failed" of the drivers, and "N passed; N failed" of cargo test, once for each crate.
    read -r passed failed < <(sed -n 's/^\(test result: [a-zA-Z]*\. \)\?\([0-9]\+\) passed[,;] \([0-9]\+\) failed.*/\2 \3/p' "$file.output" |
        awk '{ passed += $1; failed += $2 } END { print passed + 0, failed + 0 }')
    if [ $status -ne 0 ]; then
        [ "$failed" -gt 0 ] || failed=1
        # Said again at the end, because thousands of lines may follow.
        {
            say "FAILED: $name"
            grep -E -A 6 "$failure_lines" "$file.output" | tail -n 60 || tail -n 20 "$file.output"
        } >"$file.failure" 2>&1
    fi
    echo "$passed $failed" >"$file.counts"
    count_cpu_s
    say "== $name: $([ $status -eq 0 ] && echo passed || echo FAILED) in $((SECONDS - started)) s, $((cpu_s - cpu_before)) s of a processor"
}

step formatting cargo fmt --all --check
step dependencies scripts/dependencies.sh
step "dependencies self-check" scripts/dependencies.sh --self-check
step "table of failures" python3 tests/failures.py
step reference python3 tests/reference.py
step links python3 tests/links.py
step "paths in documents" python3 tests/paths.py
step layers python3 tests/layers.py
# What tests make fail on purpose is not in what is built for use.
step lints cargo clippy --quiet --workspace --all-targets --features logservice/failpoints -- -D warnings
step "unit tests" cargo test --quiet --workspace --features logservice/failpoints
step build cargo build --quiet --release --workspace
# Kept, because the next build puts others in their place.
simulations=$work/simulations
mkdir "$simulations"
cp target/release/durability-simulation target/release/durability-replication-simulation "$simulations"
step "build of what can be broken" cargo build --quiet --release --workspace \
    --features logservice/failpoints,durability-simulation/self-check \
    --features durability-replication-simulation/files,durability-replication-simulation/self-check \
    --bin logservice-failpoints --bin durability-simulation --bin durability-replication-simulation \
    --bin durability-copy-files-simulation --bin durability-replicated-shard-simulation

# Most of these wait more than they work, so there are two rows of them side by side, which take about as long.
first_row() {
    step integration tests/run-suite.sh
    step "three zones" tests/zones/run.sh
    step "services are replaced" tests/zones/run.sh --replace
    step "three zones, disks" tests/zones/run.sh --disks
    step "three zones, operators" tests/zones/run.sh --operate
    step "slots, stored by one service and by three" tests/zones/run.sh --slots
    step "a single service becomes three" tests/zones/run.sh --grow
    step "slots that came, in snapshots" tests/imports/run.sh
    step "cluster mode" tests/cluster/run.sh
    step "cluster mode, three services" tests/cluster/run.sh --services 3
    step "failover, cluster" tests/failover/run.sh --shards 3 --rounds 2 --seconds 15
    step "failover, cluster, async" tests/failover/run.sh --shards 3 --mode async --rounds 1 --seconds 15
    step "failover self-check, cluster" tests/failover/run.sh --self-check --shards 3
    step crash tests/crash/run.sh --rounds "$rounds"
    step "crash self-check" tests/crash/run.sh --self-check
    step "crash, failpoints" tests/crash/run.sh --failpoints --rounds 10
    step "crash, three services" tests/crash/run.sh --services 3 --rounds 6
    step "crash, three services, async" tests/crash/run.sh --services 3 --mode async --rounds 4
    step "crash self-check, failpoints" tests/crash/run.sh --failpoints --self-check
    step "crash, async" tests/crash/run.sh --mode async --rounds 9
    step "crash self-check, async" tests/crash/run.sh --mode async --self-check
    step histories tests/histories/run.sh --rounds 50
    step "histories, three services" tests/histories/run.sh --services 3 --rounds 15
    step "histories self-check" tests/histories/run.sh --self-check
}

second_row() {
    step "Valkey's suite" env SKIP_BUILD=1 scripts/valkey-suite.sh --mode sync unit/type unit/other unit/tracking
    step "Valkey's suite, leases expire" env SKIP_BUILD=1 scripts/valkey-suite.sh --mode sync --failover unit/multi unit/scripting \
        unit/functions unit/expire unit/wait unit/pause
    step "object store" tests/s3/run.sh
    step failover tests/failover/run.sh --rounds 3 --seconds 12
    step "cluster mode, TLS" tests/cluster/run.sh --tls yes
    step "failover, async" tests/failover/run.sh --mode async --rounds 1 --seconds 12
    step "failover, three services" tests/failover/run.sh --services 3 --rounds 3 --seconds 12
    step "failover, three services, async" tests/failover/run.sh --services 3 --mode async --rounds 1 --seconds 12
    step "failover self-check" tests/failover/run.sh --self-check
    step "failover self-check, three services" tests/failover/run.sh --self-check --services 3
    step "versions of Valkey" env BASE_PORT=30000 tests/versions/run.sh --short
    step "install and operate" tests/deploy/run.sh
    step "status page" tests/status_page/run.sh
    step "benchmark's report" tests/bench/run.sh --self-check
    step "clients find the leader" tests/sentinel/run.sh
    step "clients find the leader, three services" tests/sentinel/run.sh --services 3
    step "clients of a cluster" tests/cluster/run.sh --clients durable
    step oracle tests/oracle/run.sh
    step "oracle self-check" tests/oracle/run.sh --self-check
    step "as plain Valkey" tests/differential/run.sh
    step "as plain Valkey, self-check" tests/differential/run.sh --self-check
    step simulation "$simulations/durability-simulation" --seeds 10000
    step "simulation of replication" "$simulations/durability-replication-simulation" --seeds 10000
    step "simulation of copies in files" target/release/durability-copy-files-simulation --seeds 2000
    step "simulation of copies in files, self-check" target/release/durability-copy-files-simulation --self-check --seeds 4000
    step "simulation of replicated shards" target/release/durability-replicated-shard-simulation --seeds 1000
    step "simulation of replicated shards, self-check" target/release/durability-replicated-shard-simulation --self-check --seeds 1000
    step "simulation self-check" target/release/durability-simulation --self-check
    step "simulation of replication, self-check" target/release/durability-replication-simulation --self-check
}

# Job control gives the second row a process group of its own. It is shown when the first one has ended.
set -m
second_row >"$work/second_row" 2>&1 </dev/null &
beside=$!
set +m
first_row
say "== the other row of steps"
tail --pid="$beside" --lines=+1 --follow "$work/second_row"
wait "$beside" || say "the other row of steps ended early" 2>"$work/step.row.failure"
beside=

cat "$work"/step.*.failure >&2 2>/dev/null || true
read -r passed failed < <(cat "$work"/step.*.counts | awk '{ passed += $1; failed += $2 } END { print passed + 0, failed + 0 }')
if [ "$passed" -eq 0 ]; then
    say "no test ran"
    failed=$((failed + 1))
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && ! ls "$work"/step.*.failure >/dev/null 2>&1
