#!/usr/bin/env bash
# Time and test the networks on one GPU, on a machine without a network, in four minutes at most (see gpu.py).
#
# usage: tests/benchmarks/gpu.sh CROPS.npz FOLDER [BUNDLE]
#
# CROPS.npz is what `gpu.py pack` wrote for the BUNDLE (amibr-lite2). FOLDER gets what is printed. PYTHON, DEVICE and CROPS
# can be set. Packages that the machine lacks are taken from wheels in build/wheels. What fails or takes too long is reported.
set -uo pipefail
crops=$(realpath "$1") folder=$(realpath -m "$2") bundle=${3:-amibr-lite2}
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$root" PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
mkdir -p "$folder"
cd "$root" || exit

step() { # NAME SECONDS COMMAND...: what it prints is kept as NAME.txt
    local name=$1 most=$2 started=$SECONDS
    shift 2
    timeout --kill-after=3 "$most" "$@" 2>&1 | tee "$folder/$name.txt" || echo "FAILED: $name ended with status $?"
    echo "== $name: $((SECONDS - started)) s"
}

if compgen -G "build/wheels/*.whl" > /dev/null; then
    timeout 30 "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade \
        --target build/site build/wheels/*.whl
    export PYTHONPATH="$root/build/site:$root"
fi
step forward 80 "$python" tests/benchmarks/gpu.py forward "$crops" "$bundle"
step tests 60 "$python" -m pytest -q -p no:cacheprovider -o filterwarnings=default -k "gpu or graph" --durations=5 \
    tests/nets/test_members.py tests/nets/test_precision.py tests/nets/test_steps.py
step classify 70 "$python" tests/benchmarks/gpu.py classify "$crops" "$bundle"
