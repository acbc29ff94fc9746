# Everything lives in .venv; nothing else is touched.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test faults lint bench docs clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: .venv/installed ## the main job on a real H&E image
	$(BIN)/wsi-mitosis demo demo

test: .venv/installed ## all tests that need no real data; with WSI_MITOSIS_DATA set, those too
	$(BIN)/python -m pytest

lint: .venv/installed ## ruff, mypy strict, the layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: .venv/installed ## every test of faults, also the long ones
	$(BIN)/python -m pytest tests/faults -m "faults or not faults"

bench: .venv/installed ## timings side by side; nothing is asserted
	$(BIN)/python -m tests.benchmarks

docs: .venv/installed ## the references of all options and of the log, from their descriptions
	$(BIN)/python -m tests.reference

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
