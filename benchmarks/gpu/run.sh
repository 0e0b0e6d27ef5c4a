#!/usr/bin/env bash
# Run stages on one GPU, each with a time limit. Each stage writes its results when it ends.
# README.md describes the stages.
#   benchmarks/gpu/run.sh [--rehearse] STAGE...
#   RESULTS   folder of results             (benchmarks/gpu/results)
#   WORK      bundles and bought answers    (a temporary folder)
#   MOSAICS   mosaics to unpack             (WORK/mosaics)
#   LIMIT     seconds of each stage         (below)
#   SEEDS     seeds of a packaged protocol  (0 1 2)
#   STUDENTS  students at once of a seed    (2)
set -u
shopt -s globstar
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
cd "$root" || exit
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
export RESULTS WORK MOSAICS AUDIT_DATA AUDIT_COMMIT REHEARSE=${REHEARSE:-0}
if [ "${1:-}" = --rehearse ]; then
    REHEARSE=1
    RESULTS=$(mktemp -d)
    shift
fi
RESULTS=${RESULTS:-$here/results}
WORK=${WORK:-$(mktemp -d)}
AUDIT_DATA=${AUDIT_DATA:-$WORK/data}
MOSAICS=${MOSAICS:-$WORK/mosaics}
PYTHON=${PYTHON:-python3}
for package in clients protection server attacker_eval; do
    PYTHONPATH=$root/$package${PYTHONPATH:+:$PYTHONPATH}
done
export PYTHONPATH
if [ -f "$root/COMMIT" ]; then
    AUDIT_COMMIT=$(cat "$root/COMMIT")
else
    AUDIT_COMMIT=$(git -C "$root" rev-parse HEAD)
fi
mkdir -p "$RESULTS" "$WORK" "$AUDIT_DATA"

# The limits have room over the times measured on one H200: README.md.
limit() {
    case $1 in
    tests | tests_audit) echo 100 ;;
    serving) echo 280 ;;
    training) echo 90 ;;
    *) echo 420 ;;
    esac
}

# Unpack a data set from its mosaics. A rehearsal packs and unpacks noise.
data() {
    [ -f "$AUDIT_DATA/$1.npz" ] && return
    if [ $REHEARSE = 1 ]; then
        "$PYTHON" "$here/noise.py" "$WORK/noise/$1.npz" || return
        "$PYTHON" "$here/mosaics.py" pack "$WORK/noise/$1.npz" "$WORK/mosaics" \
            --train 200 --test 100 || return
    fi
    "$PYTHON" "$here/mosaics.py" unpack "$MOSAICS" "$AUDIT_DATA/$1.npz"
}

# No plug-ins of this machine: they may warn, and a warning is an error here.
tests() {
    PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "$PYTHON" -m pytest -q -p no:cacheprovider \
        -p anyio.pytest_plugin -p pytest_timeout -p xdist.plugin --timeout 60 "$@"
}

table() {
    data "$2" && "$PYTHON" "$here/audit.py" "$1" ${3:+--first "$3"}
}

# Let kernels of several processes run side by side. Without MPS the processes take turns. If
# CUDA_MPS_PIPE_DIRECTORY is set, MPS runs already, for several calls of this script at once.
share_gpu() {
    [ $REHEARSE = 0 ] && [ -z "${CUDA_MPS_PIPE_DIRECTORY:-}" ] &&
        command -v nvidia-cuda-mps-control >/dev/null || return 0
    export CUDA_MPS_PIPE_DIRECTORY=$WORK/mps CUDA_MPS_LOG_DIRECTORY=$WORK/mps
    mkdir -p "$WORK/mps" && nvidia-cuda-mps-control -d
    sharing=1
    trap stop_sharing EXIT
}

stop_sharing() {
    [ -z "${sharing:-}" ] || echo quit | nvidia-cuda-mps-control
}

# Run an audit of the package, with a process and a folder for each seed.
seeds() {
    local protocol=$root/attacker_eval/stingy_attacker_eval/protocols/$1.toml
    if [ ! -f "$protocol" ]; then
        echo "expected a stage or a packaged protocol, got $1" >&2
        return 2
    fi
    for name in $(grep -o 'AUDIT_DATA/[a-z0-9]*' "$protocol" | sort -u); do
        data "${name#*/}" || return
    done
    [ $REHEARSE = 0 ] || SEEDS=0
    trap "pack_seeds $1; stop_sharing" EXIT
    "$PYTHON" "$here/audit.py" "$1" --teachers || return
    for seed in ${SEEDS:-0 1 2}; do
        "$PYTHON" "$here/audit.py" "$1" --seed "$seed" --parallel "${STUDENTS:-2}" &
    done
    for job in $(jobs -p); do
        wait "$job" || return
    done
}

# Pack what the seeds found, whole or cut, without the bought answers.
pack_seeds() {
    wait
    tar czf "$RESULTS/$1.tar.gz" -C "$WORK" --exclude answers --exclude '*-state' "$1"
}

stage() {
    case $1 in tests* | serving | training) ;; *) share_gpu ;; esac
    case $1 in
    tests) tests -m cuda --junitxml "$RESULTS/tests.xml" tests/**/test_*cuda*.py ;;
    tests_audit) # the audit's own tests, which use CUDA if there is a device
        tests -n 6 --junitxml "$RESULTS/tests_audit.xml" \
            tests/attacker_eval/{attacks,audit} tests/attacker_eval/test_{teachers,training,zoo}.py
        ;;
    serving | training) "$PYTHON" "$here/$1.py" ;;
    table1_gpu) # both at once: the teachers of one leave most of the device free
        table table1_tin100 tin100 paper_kd &
        table table1_cifar10 cifar10 paper_kd && wait $!
        ;;
    table1_cifar10 | table1_tin100) table "$1" "${1#table1_}" paper_kd ;;
    table1_more) table "$1" cifar10 ;;
    table2_gpu) table table2 cifar10 ;;
    *) seeds "$1" ;;
    esac
}

# Run one stage. At its limit it gets SIGINT, with all its processes, and SIGKILL 20 seconds later.
run_limited() {
    local started=$SECONDS code=0
    timeout -s INT -k 20 "${LIMIT:-$(limit "$1")}" bash "$here/run.sh" --stage "$1" \
        >"$RESULTS/$1.log" 2>&1 || code=$?
    echo "== $1: status $code after $((SECONDS - started)) s"
    tail -n 40 "$RESULTS/$1.log"
    return $code
}

run_sequence() {
    local failed=0
    for name in "$@"; do
        run_limited "$name" || failed=1
    done
    return $failed
}

if [ "${1:-}" = --stage ]; then
    stage "$2"
elif [ $# = 0 ] && [ $REHEARSE = 1 ]; then # two sequences at once, for two cores
    (WORK=$(mktemp -d) AUDIT_DATA=$WORK/data MOSAICS=$WORK/mosaics && mkdir "$AUDIT_DATA" &&
        run_sequence serving frontier_cifar10) &
    run_sequence tests training table1_gpu table1_more table2_gpu
    rest=$?
    wait $! && exit $rest
else
    run_sequence "$@"
fi
