# Not built or run by the authors: they had no container engine at hand. Corrections are welcome.
#
#   docker build -t wsi-mitosis .
#   docker run --rm -v /data:/data wsi-mitosis classify /data/slides --detections /data/dets.csv --out /data/results
#
# As an algorithm on grand-challenge.org (MIDOG 2025, track 2), which mounts /input and /output and has no network:
#   docker build -t wsi-mitosis-gc --target grand-challenge .

FROM python:3.11-slim AS base
# libgl1 and libglib2.0-0: OpenCV, which TIAToolbox imports
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir /src && rm -rf /src
RUN useradd --create-home user
USER user
WORKDIR /home/user
ENTRYPOINT ["wsi-mitosis"]

FROM base AS grand-challenge
ENTRYPOINT ["wsi-mitosis", "predict", "--grand-challenge"]

FROM base AS classify
CMD ["--help"]
