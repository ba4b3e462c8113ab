# Everything happens in a virtual environment in the tree; nothing outside it is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: check test test-slow bench install clean

check: $(STAMP)
	$(BIN)/tdpfast check review --expect

test: $(STAMP)
	$(BIN)/python -m pytest -q -m "not slow"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q

bench: $(STAMP)
	$(BIN)/python -m pytest -q bench --benchmark-sort=name

install: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "scikit-build-core>=1.0" "cython>=3.1" "cython-cmake>=0.3" cmake ninja

SOURCES := pyproject.toml CMakeLists.txt $(wildcard src/*.pyx src/tdpfast/*.pxd src/tdpfast/*.h)

$(STAMP): $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[test,bench]"
	touch $@

clean:
	rm -rf build $(VENV)
