#!/usr/bin/env bash
# Test and time the networks on one GPU, on a machine without a network, in about two minutes (see gpu.py).
#
# usage: tests/benchmarks/gpu.sh CROPS.npz FOLDER [BUNDLE...]
#
# CROPS.npz is what `gpu.py pack` wrote. FOLDER gets what was printed, and the tables as JSON. The first bundle
# is timed most, and classifies a slide; one of a single network is tried with more ways to compute.
# Packages that the machine lacks are taken from the wheels in build/wheels, if there are any.
# PYTHON, DEVICE, CROPS and TOTAL (120, in seconds) can be set. What fails or takes too long is reported, and the rest goes on.
set -uo pipefail
crops=$1 folder=$2
shift 2
bundles=("$@")
[ ${#bundles[@]} -gt 0 ] || bundles=(amibr-lite amibr-lite0)
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$root" PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
mkdir -p "$folder"

step() { # NAME SECONDS COMMAND...: what it prints is kept as NAME.txt
    local name=$1 most=$2 started=$SECONDS
    shift 2
    echo "== $name"
    timeout --kill-after=3 "$most" "$@" 2>&1 | tee "$folder/$name.txt" || echo "FAILED: $name ended with status $?"
    echo "== $name: $((SECONDS - started)) s; $SECONDS s in all"
}

if compgen -G "$root/build/wheels/*.whl" > /dev/null; then
    timeout 30 "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade \
        --target "$root/build/site" "$root"/build/wheels/*.whl
    export PYTHONPATH="$root/build/site:$root"
    echo "== wheels: $SECONDS s in all"
fi
cd "$root" || exit
LIMIT=45 step forward 65 "$python" tests/benchmarks/gpu.py forward "$crops" "$folder" "${bundles[@]}"
step tests 30 "$python" -m pytest -q -p no:cacheprovider -o filterwarnings=default -k "graph or gpu" \
    tests/nets/test_graphs.py tests/nets/test_members.py tests/nets/test_steps.py
LIMIT=20 step classify 35 "$python" tests/benchmarks/gpu.py classify "$crops" "$folder" "${bundles[0]}"
left=$((${TOTAL:-120} - 2 - SECONDS))
if [ "$left" -ge 15 ]; then
    step compile "$left" "$python" tests/benchmarks/gpu.py compile "$crops" "$folder" "${bundles[-1]}"
else
    echo "no time for: compile"
fi
