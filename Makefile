# make demo: install, curate real photos and pretrain a tiny model on them. make demo-tasks: fine-tune it on rendered people.
# make test: install what tests need and run them. make check: lint and types.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet -c constraints.txt
# ultralytics brings the build of OpenCV that has windows and needs libGL; pip writes it over the one without
HEADLESS := $(INSTALL) --force-reinstall --no-deps opencv-python-headless

.PHONY: demo demo-tasks check clean test test-training test-curation test-networks
.PHONY: test-slow test-slow-training test-slow-curation

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	$(INSTALL) --editable '.[demo]'
	$(HEADLESS)
	touch $@

$(VENV)/test-installed: $(VENV)/installed
	$(INSTALL) --editable '.[bench,demo,full,export,test]'
	$(HEADLESS)
	touch $@

demo: $(VENV)/installed
	rm -rf demo-out
	$(BIN)/sapiens-curate demo demo-out
	$(BIN)/sapiens-train pretrain demo-out/curated --run demo-out/run --model tiny \
		--batch 3 --micro-batch 3 --images 1200 --base-lr 0.04 --warmup 0.1 --workers 1 --max-minutes 1
	$(BIN)/sapiens-train reconstruct demo-out/run demo-out/photos/1-people demo-out/photos/2-others \
		--out demo-out/reconstructions --side 128

TASKS := demo-out/tasks
demo-tasks: $(VENV)/installed
	rm -rf $(TASKS)
	$(BIN)/sapiens-train practice $(TASKS)/people --count 240
	$(BIN)/sapiens-train practice $(TASKS)/unseen --count 8 --seed 1
	for task in parts normals; do \
		$(BIN)/sapiens-train pack $$task $(TASKS)/people $(TASKS)/$$task && \
		$(BIN)/sapiens-train finetune $$task $(TASKS)/$$task $(TASKS)/run-$$task --model tiny --size 128x96 \
			--batch 8 --micro-batch 8 --images 2400 --lr 1e-3 --warmup-steps 30 --no-augment --workers 1 --log-every 50 \
		|| exit 1; \
	done
	$(BIN)/sapiens-train predict $(TASKS)/unseen/images $(TASKS)/predicted --boxes whole \
		--parts $(TASKS)/run-parts --normals $(TASKS)/run-normals

# Processes of their own: forked loaders of training would not survive the thread pools that curation leaves behind.
# `make -j2 test` runs them side by side.
test: test-training test-curation test-networks
test-slow: test-slow-training test-slow-curation

TRAINING := tests/shards tests/training
CURATION := tests/manifests tests/curation
NETWORKS := tests/curation/full tests/curation/builtin

test-training: $(VENV)/test-installed
	$(BIN)/python -m pytest -m 'not slow' $(TRAINING)

test-curation: $(VENV)/test-installed
	$(BIN)/python -m pytest -m 'not slow' $(CURATION) $(NETWORKS:%=--ignore=%)

test-networks: $(VENV)/test-installed
	$(BIN)/python -m pytest -m 'not slow' $(NETWORKS)

test-slow-training: $(VENV)/test-installed
	$(BIN)/python -m pytest -m slow $(TRAINING)

test-slow-curation: $(VENV)/test-installed
	$(BIN)/python -m pytest -m slow $(CURATION)

check: $(VENV)/test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo-out
