# Long steps side by side, with a line that says how far they are. Sourced after lib.sh; nothing here runs by itself.
# shellcheck shell=bash

JOBS_DIRECTORY='' JOB_NAMES=() JOB_PIDS=() JOB_STATES=()

# How often the line is said again, in fifths of a second. On a terminal it stands still; elsewhere each is a line of its own.
if [ -t 2 ]; then LINE_EVERY=5; else LINE_EVERY=50; fi

elapsed() { printf '%d:%02d' $((SECONDS / 60)) $((SECONDS % 60)); } # minutes and seconds since the script began

# job NAME STATE COMMAND...: starts a step. STATE is a command that prints how far it is, given the file with what the step said (stderr).
# What it prints to stdout is what job_output gives.
job() {
    local name=$1 state=$2 number=${#JOB_PIDS[@]}
    shift 2
    if [ -z "$JOBS_DIRECTORY" ]; then
        JOBS_DIRECTORY=$(mktemp -d)
        trap 'end_jobs; exit 130' INT
        trap 'end_jobs; exit 143' TERM HUP
    fi
    # In a session of its own, so that it can be ended with all that it has started.
    setsid "$@" >"$JOBS_DIRECTORY/$number.out" 2>"$JOBS_DIRECTORY/$number.err" </dev/null &
    JOB_PIDS+=($!)
    JOB_NAMES+=("$name")
    JOB_STATES+=("$state")
}

job_output() { cat "$JOBS_DIRECTORY/$1.out"; } # job_output NUMBER, from 0

# end_jobs: ends those that run, and forgets what all said.
end_jobs() {
    local pid
    for pid in "${JOB_PIDS[@]}"; do
        if [ -n "$pid" ]; then kill -TERM -- "-$pid" 2>/dev/null || true; fi
    done
    rm -rf "$JOBS_DIRECTORY"
    trap - INT TERM HUP
}

# wait_for_jobs NEXT: returns when all have ended well. NEXT is what comes then. If one fails, the others are ended, and the script dies with
# the end of what that one said.
wait_for_jobs() {
    local next=$1 looks=0 number running text
    while true; do
        running=no text=''
        for number in "${!JOB_PIDS[@]}"; do
            [ -n "${JOB_PIDS[number]}" ] || continue
            if kill -0 "${JOB_PIDS[number]}" 2>/dev/null; then
                running=yes
                # Steps that have nothing to do are done before the first line.
                if [ $looks -ge 10 ] && [ $((looks % LINE_EVERY)) -eq 0 ]; then
                    text+="${text:+ | }${JOB_NAMES[number]}: $(${JOB_STATES[number]} "$JOBS_DIRECTORY/$number.err")"
                fi
            else
                finish_job "$number" $looks
            fi
        done
        [ $running = yes ] || break
        if [ -n "$text" ]; then show_line "$(elapsed)  $text | next: $next"; fi
        looks=$((looks + 1))
        sleep 0.2
    done
}

finish_job() { # finish_job NUMBER LOOKS
    local pid=${JOB_PIDS[$1]} errors=$JOBS_DIRECTORY/$1.err
    JOB_PIDS[$1]=''
    if wait "$pid"; then
        if [ "$2" -ge 10 ]; then end_line && say "$(elapsed)  ${JOB_NAMES[$1]}: done"; fi
        return
    fi
    end_line
    # Not what went well before.
    tr '\r' '\n' <"$errors" | grep -vE '^ *(Compiling|Building|Downloading|Downloaded|Locking|Blocking)|^ *$' | tail -n 30 >&2 || true
    end_jobs
    die "${JOB_NAMES[$1]}: failed after $(elapsed); what it said is above"
}

show_line() { # show_line TEXT
    local width
    if [ -t 2 ]; then
        width=$(tput cols 2>/dev/null || echo 80)
        printf '\r\033[K%s' "${1:0:width-1}" >&2
    else
        say "$1"
    fi
}

end_line() { if [ -t 2 ]; then printf '\r\033[K' >&2; fi; }

# said_last FILE: the last line of what a step said.
said_last() { tail -c 2000 "$1" | tr '\r' '\n' | grep -v '^ *$' | tail -n 1 | sed 's/^ *//' || true; }

# cargo_state FILE: "212 of 391 steps, logservice", of the line that cargo shows with CARGO_TERM_PROGRESS_WHEN=always.
cargo_state() {
    local last
    last=$(tail -c 4000 "$1" | tr '\r' '\n' | grep -oE '[0-9]+/[0-9]+: [^ ,.]+' | tail -n 1 || true)
    if [ -n "$last" ]; then sed -E 's|([0-9]+)/([0-9]+): (.*)|\1 of \2 steps, \3|' <<<"$last"; else said_last "$1"; fi
}

# valkey_state FILE: how many files are compiled, and the last one, while scripts/valkey.sh builds.
valkey_state() {
    local log
    for log in "$CACHE"/valkey/*.partial/build.log; do
        [ -e "$log" ] || continue
        echo "$(grep -cE '^ +CC |^(gcc|cc|c99) ' "$log" || true) files compiled, $(grep -oE '[^ /]+\.[co]$' "$log" | tail -n 1 || true)"
        return
    done
    said_last "$1" | sed 's/^[a-z.]*: //'
}
