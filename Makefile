# Everything happens in a virtual environment in the tree; nothing outside it is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# A build with sanitizers stays apart from the normal one: its own environment, its own build directory.
SANITIZE ?=
CONFIG := $(if $(SANITIZE),-C build-dir=build/$(notdir $(VENV)) -C cmake.define.TDPFAST_SANITIZE=$(SANITIZE) -C install.strip=false)

# What drives native code; a sanitizer sees no more in the rest. Fibers mean nothing to the thread sanitizer.
ASAN_TESTS := tests/unit tests/conformance tests/concurrency tests/stateful
TSAN_TESTS := tests/concurrency tests/unit/test_seam_threads.py tests/unit/test_td_vm.py tests/unit/test_vm_promises.py \
	tests/stateful/test_threads_machine.py

.PHONY: check test test-slow test-asan test-tsan lint docs bench install clean

check: $(STAMP)
	$(BIN)/tdpfast check review --expect

test: lint
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check --quiet
	$(BIN)/python tools/docs_python.py build/docs-python
	$(BIN)/mypy src/tdpfast build/docs-python

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q
	$(MAKE) test-asan
	$(MAKE) test-tsan

test-asan:
	$(MAKE) install VENV=.venv-asan SANITIZE=address,undefined
	tools/sanitize.sh address .venv-asan/bin/python -m pytest -q --capture=sys -m "not slow and not resident" $(ASAN_TESTS)

test-tsan:
	$(MAKE) install VENV=.venv-tsan SANITIZE=thread
	tools/sanitize.sh thread .venv-tsan/bin/python -m pytest -q --capture=sys -m "not slow" $(TSAN_TESTS)

# Every page, warnings are errors; build/docs/index.html is the first.
docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

# Every figure beside a baseline of the same run; the JSON stays for comparisons of one's own.
bench: $(STAMP)
	mkdir -p build
	$(BIN)/python -m pytest -q bench --benchmark-quiet --benchmark-json=build/bench.json
	$(BIN)/python bench/report.py build/bench.json

install: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "scikit-build-core>=1.0" "cython>=3.1" "cython-cmake>=0.3" cmake ninja

SOURCES := Makefile pyproject.toml CMakeLists.txt $(shell find src -name '*.p[xy][xd]' -o -name '*.h')

$(STAMP): $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation $(CONFIG) -e ".[test,bench,lint,docs]"
	touch $@

clean:
	rm -rf build $(VENV) .venv-asan .venv-tsan
