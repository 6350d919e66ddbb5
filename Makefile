# Short names for what CONTRIBUTING.md describes.  All use the environment in .venv (make it with `make env`).
PYTHON ?= .venv/bin/python
BIN := $(dir $(PYTHON))

.PHONY: env native test properties lint types check questions attacks crash bench scores debug clean

env:            ## environment with the development tools, native modules built in place
	python3 -m venv .venv
	.venv/bin/pip install -e '.[dev]'

native:         ## rebuild the native modules that have changed
	$(PYTHON) setup.py build_ext --inplace

debug:          ## native modules with assertions, symbols and annotated HTML; `make clean native` goes back
	TIDEGAUGE_NATIVE_DEBUG=1 $(PYTHON) setup.py build_ext --inplace --force

test:           ## all tests, crash and system tests bounded as in CI
	$(BIN)pytest

properties:     ## the same tests, with other random examples in every run
	TIDEGAUGE_RANDOM=1 $(BIN)pytest

lint:
	$(BIN)ruff check .
	$(BIN)ruff format --check .

types:
	$(BIN)mypy

check: lint types test

questions:      ## the twenty questions of docs/sql-questions.md against known data
	$(BIN)pytest -v tests/api/test_sql_questions.py

attacks:        ## every attack on SQL in every disguise against a running server; writes and other users meanwhile
	TIDEGAUGE_ATTACKS=$${TIDEGAUGE_ATTACKS:-1000000} $(BIN)pytest -m attacks -s --timeout 3600

crash:          ## the long kill -9 campaign: TIDEGAUGE_KILLS=500 by default
	TIDEGAUGE_KILLS=$${TIDEGAUGE_KILLS:-500} $(BIN)pytest -m crash -q --timeout 7200

bench:          ## all benchmark suites at full size
	$(BIN)tidegauge bench

scores:         ## every figure on labelled data beside what is asked and published; skipped where the data is absent
	$(BIN)tidegauge bench scores

clean:
	rm -rf build dist *.egg-info native/*.so native/*.cpp native/*.html
