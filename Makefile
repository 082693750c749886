# make demo: install and curate real photos. make test: install what tests need and run them. make check: lint and types.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet -c constraints.txt

.PHONY: demo test test-slow check clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	$(INSTALL) --editable '.[demo]'
	touch $@

$(VENV)/test-installed: $(VENV)/installed
	$(INSTALL) --editable '.[demo,full,test]'
	touch $@

demo: $(VENV)/installed
	rm -rf demo-out
	$(BIN)/sapiens-curate demo demo-out

test: $(VENV)/test-installed
	$(BIN)/python -m pytest -m 'not slow'

test-slow: $(VENV)/test-installed
	$(BIN)/python -m pytest -m slow

check: $(VENV)/test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo-out
