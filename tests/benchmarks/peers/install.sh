#!/bin/sh
# Installs the readers that cannot share the project's environment into one of their own (3.4 GB).
# TIAToolbox, OpenSlide and torch are in the project's. PyTurboJPEG needs a system's libjpeg-turbo: imagecodecs has it.
set -eu
folder=${1:-build/bench/readers}
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check \
    cucim-cu12==26.10.0 fastslide==0.8.1 imagecodecs==2026.3.6 numpy openslide-bin openslide-python \
    pyvips==3.2.0 pyvips-binary==8.18.7 tifffile tiffslide==3.0.1
