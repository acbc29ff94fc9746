# Everything lives in .venv; nothing else is touched.
PYTHON ?= python3
BIN := .venv/bin
TESTS_AT_ONCE ?= 2
# All tests of a file in one process, which makes what they share once; the longest files first (tests/conftest.py).
BY_FILE := --dist loadfile --no-loadscope-reorder
PYTHON_EXPORTS := .venv-exports/bin/python

.PHONY: demo test coverage exports faults long lint audit sbom fuzz bench docs wheel clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: .venv/installed ## the main job on a real H&E image
	$(BIN)/wsi-mitosis demo demo

# With OMP_WAIT_POLICY=passive, threads of one test that wait do not take the cores from another.
test: .venv/installed ## all tests that need no real data; with WSI_MITOSIS_DATA set, those too
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(TESTS_AT_ONCE) $(BY_FILE)

coverage: .venv/installed ## all tests, the share of lines that they run, and coverage.xml with each line
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(TESTS_AT_ONCE) $(BY_FILE) --cov --cov-report=xml --cov-report=
	@echo "coverage: $$($(BIN)/coverage report --format=total) % of the lines of wsi_mitosis"

lint: .venv/installed ## ruff, mypy strict, the layers, bandit; needs no network
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive wsi_mitosis

audit: .venv/installed ## known holes of the installed packages; asks PyPI, so it NEEDS THE NETWORK
	$(BIN)/pip-audit --local --skip-editable --strict --progress-spinner off || \
	{ echo "make audit: a package has a known hole, or PyPI (https://pypi.org) was not reached; see above"; exit 1; }

sbom: .venv/installed ## sbom.json: the installed packages as CycloneDX; needs no network
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.json .venv

fuzz: .venv/installed ## 100,000 mutated files through every reader, and new examples for the property tests
	$(BIN)/python -m tests.faults.fuzz --inputs 100000
	HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist worksteal -m hypothesis

exports: ## the exports to AnnData and SpatialData, which need an environment of their own; NEEDS THE NETWORK
	$(PYTHON) -m venv .venv-exports
	$(PYTHON_EXPORTS) -m pip install --quiet --disable-pip-version-check -e ".[dev,spatialdata]" wsidata
	OMP_WAIT_POLICY=passive $(PYTHON_EXPORTS) -m pytest tests/io/results/exports tests/jobs/test_export.py

faults: .venv/installed ## every test of faults, also the long ones
	$(BIN)/python -m pytest tests/faults tests/workers tests/test_cluster_files.py -m "faults or not faults"
	$(BIN)/python -m pytest tests/jobs -m faults

long: .venv/installed ## trainings and whole examples that take minutes; with WSI_MITOSIS_DATA set, those on real data
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m long

bench: .venv/installed ## timings side by side; nothing is asserted
	$(BIN)/python -m tests.benchmarks

docs: .venv/installed ## the generated pages, and the site in site/; needs no network
	$(BIN)/python -m tests.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: .venv/installed ## dist/: the source distribution and the wheel, and the test of both; needs no network
	rm -rf dist
	$(BIN)/python -m hatchling build --directory dist
	WSI_MITOSIS_DIST=dist $(BIN)/python -m pytest tests/test_wheel.py

clean:
	rm -rf .venv .venv-exports build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
