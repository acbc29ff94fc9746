#!/usr/bin/env bash
# Train all folds of a recipe on one GPU, on a machine without a network (see gpu.py).
#
# usage: train/gpu.sh RECIPE ARCHIVE.npz FOLDER [DEVICE]
#
# FOLDER gets the members in half precision and their losses; run it again to go on with the next fold.
# Packages that the machine lacks are taken from the wheels in build/wheels, if there are any.
set -euo pipefail
recipe=$1 archive=$2 folder=$3 device=${4:-cuda}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$root" PYTHONUNBUFFERED=1
if compgen -G "$root/build/wheels/*.whl" > /dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --target "$root/build/site" "$root"/build/wheels/*.whl
    export PYTHONPATH="$root:$root/build/site"
fi
started=$SECONDS
"$python" "$root/train/gpu.py" train "$recipe" "$archive" "$folder" "$device"
echo "$((SECONDS - started)) s in all"
