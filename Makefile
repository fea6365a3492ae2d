# Everything here makes its own set-up: Python >= 3.10 with pip and venv is all it needs.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
ROOMS := firmware_bridge edge training quantize upstream benchmarks cli
NATIVE := setup.py $(wildcard edge/native/*.[ch])

.PHONY: help setup native demo test check format typing default-model docs figures release try-release test-boards web screenshots chaos offline soak clean

help: ## show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What a board gets, and the collector: no torch.
$(VENV)/.runtime: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[upstream]'
	@touch $@

# What a developer needs. torch first and pinned, so that nothing pulls another build of it.
$(VENV)/.dev: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.runtime

setup: $(VENV)/.dev ## a development environment in .venv

native: | $(BIN)/python ## build the edge's C anew after a change of it (gcc)
	$(BIN)/python setup.py -q build_ext --inplace

demo: $(VENV)/.runtime ## about a minute of the main job: sensors, edge, collector
	$(BIN)/kinedge demo

default-model: $(VENV)/.dev ## train the shipped model again
	SOURCE_DATE_EPOCH=1795300000 $(BIN)/kinedge train examples/wrists-sim.toml --out edge/models/wrists-sim.kinedge --no-report

web: ## check and build the pages (needs node >= 20.19 and npm)
	cd web && npm ci --no-audit --no-fund && npm run check && npm run build && npm run size

screenshots: $(VENV)/.dev ## pictures of both pages for docs/, from a site that runs (five minutes, needs chromium)
	PYTHONPATH=tests $(BIN)/python tests/board_screenshots.py
	PYTHONPATH=tests $(BIN)/python tests/desk_screenshots.py

typing: ## links that let analysers see the rooms as one package
	@mkdir -p .typing && ln -sfn ../core .typing/kinedge.tmp && rm -rf .typing/kinedge .typing/kinedge.tmp
	@mkdir -p .typing/kinedge
	@for f in core/*; do ln -sfn ../../$$f .typing/kinedge/$$(basename $$f); done
	@for d in $(ROOMS); do ln -sfn ../../$$d .typing/kinedge/$$d; done

check: $(VENV)/.dev typing ## style, types and the order of the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=.typing $(BIN)/lint-imports

test: check ## everything: check, then all tests
	@# by file, as what a module sets up is dear; in the order of names, so that no long file comes last alone
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

figures: $(VENV)/.dev ## draw the architecture anew, from the imports of the code
	$(BIN)/python docs/_ext/architecture_figure.py

docs: $(VENV)/.dev ## the documentation, into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html
	@echo docs/_build/html/index.html

release: $(VENV)/.dev ## wheel, source archive, SBOMs and checksums, into dist/
	$(BIN)/python packaging/release.py --out dist

try-release: ## install dist/ into an empty environment of every Python that is here, and run the demonstration
	$(BIN)/python packaging/try_release.py dist

test-boards: $(VENV)/.dev ## the tests as boards have it, without torch, on every Python 3.10 to 3.13 that is here
	$(BIN)/python packaging/try_boards.py

chaos: $(VENV)/.dev ## 20 times: 1,000 episodes, 50 kills, a bad network (about an hour)
	PYTHONPATH=tests $(BIN)/python tests/chaos.py --seeds 20

offline: $(VENV)/.dev ## two weeks offline by a simulated clock: 20,000 episodes drain into a real collector
	PYTHONPATH=tests $(BIN)/python tests/offline.py --episodes 20000

soak: $(VENV)/.dev ## everything at once for 30 minutes, with faults; memory must stay flat
	PYTHONPATH=tests $(BIN)/python tests/soak.py --minutes 30

format: $(VENV)/.dev ## put the code into its one form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what was built here
	rm -rf .typing .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist docs/_build docs/reference *.egg-info edge/native/*.so
