#!/usr/bin/env bash
# Train the members of a plan on one GPU, on a machine without a network (see gpu.py).
#
# usage: train/gpu.sh PLAN ARCHIVE.npz FOLDER [DEVICE] [SECONDS] [PROCESSES]
#
# FOLDER gets the members in half precision and their answers; run it again to go on with the next member.
# Packages that the machine lacks are taken from the wheels in the folder $WHEELS.
set -euo pipefail
plan=$1 archive=$2 folder=$3 device=${4:-cuda} seconds=${5:-inf} processes=${6:-1}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$root" PYTHONUNBUFFERED=1
if [[ -n "${WHEELS:-}" ]]; then
    "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$WHEELS/site" "$WHEELS"/*.whl
    export PYTHONPATH="$root:$WHEELS/site"
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( $(nproc) / processes > 0 ? $(nproc) / processes : 1 ))}
started=$SECONDS
find "$folder" -name "*.claim" -delete 2> /dev/null || true
workers=()
for _ in $(seq "$processes"); do
    "$python" "$root/train/gpu.py" train "$plan" "$archive" "$folder" "$device" "$seconds" &
    workers+=($!)
done
failed=0
for worker in "${workers[@]}"; do wait "$worker" || failed=1; done
echo "$((SECONDS - started)) s in all"
exit "$failed"
