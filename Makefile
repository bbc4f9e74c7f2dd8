.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The constraints name the versions the project is tested with, and keep torch from pulling in CUDA where a CPU file lies
# at hand. pip's own build environments do not read -c, hence the variable.
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help install demo test test-comfyui lint faces avatars directions screenshots bench bench-quality leaderboard torture dist docs hub reference size clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing eigenbank with torch and diffusers into $(VENV): minutes on a slow line"
	$(PIP) -e '.[text]'
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@echo "installing what the tests, linters and benchmarks need into $(VENV): as much again"
	$(PIP) -e '.[dev,postgres,ray]'
	@touch $@

install: $(VENV)/.dev ## Make .venv and install the project with all for its development into it, once

demo: $(VENV)/.installed ## Build, label, catalog, load, steer on the shipped checkpoint; writes demo.png
	$(BIN)/eigenbank demo

test: install ## Run the tests, as many at once as there are cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist worksteal

COMFYUI_PYTHON ?= $(BIN)/python
test-comfyui: install ## Test comfyui/ in ComfyUI: COMFYUI=its checkout, COMFYUI_PYTHON=a Python with its requirements and ours
	@test -n "$(COMFYUI)" || echo "COMFYUI names no checkout of ComfyUI: nothing to run, make test has the tests against a stand-in"
	COMFYUI=$(COMFYUI) OMP_NUM_THREADS=1 PYTHONPATH=src $(COMFYUI_PYTHON) -m pytest tests/comfyui/test_real_comfyui.py

lint: install ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

faces: install ## Train the cartoon faces anew (an hour on two cores; resumes)
	PYTHONPATH=benchmarks $(BIN)/python -m faces.train --out benchmarks/checkpoints/cartoon-faces-32 --steps 4500

avatars: install ## Train the text-to-image demo checkpoint (two hours on two cores, minutes on a GPU; resumes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r training/requirements.txt
	PYTHONPATH=training OMP_NUM_THREADS=1 $(BIN)/python -m torch.distributed.run --standalone \
	    --nproc-per-node $$($(BIN)/python -c "import os, torch; print(1 if torch.cuda.is_available() else min(4, os.cpu_count()))") \
	    -m avatars --state .train/avatars all --out .train/avatars-64

DEMO := eigenbank/avatars-64
ASK := --prompt 'a person' --prompt 'an avatar of a person' --prompt 'a cartoon face'
directions: install ## Build the demo checkpoint's direction set anew, find its sliders, draw them (some minutes)
	home=$$(mktemp -d) && export EIGENBANK_HOME=$$home EIGENBANK_CATALOG=$$home/catalog.db && \
	$(BIN)/python training/directions.py && \
	$(BIN)/eigenbank preview $(DEMO) $(ASK) --steps 10 && \
	rm -rf catalog/avatars-64/directions && mv $$home/sets/*/* catalog/avatars-64/directions && rm -rf $$home

screenshots: install ## Take the docs' screenshots of the gallery and the playground anew; NAMES='gallery-front' for some
	$(BIN)/python tests/screenshots.py $(NAMES)

MINUTES := 20
torture: install ## Fuzz, break and kill for MINUTES (at most 20); writes benchmarks/results/torture.json
	$(BIN)/python tests/torture.py --minutes $(MINUTES)

dist: install ## Build wheel and sdist, install the wheel into an empty environment, run the demo from it
	.ci/dist

bench: install ## Run every benchmark, print one table (hours); ARGS='start peers' for some, ARGS='--compare OLD.json'
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-quality: install ## Hold eigen-directions against chance and against methods that sample (an hour; resumes)
	$(BIN)/python benchmarks/quality.py

leaderboard: install ## Hold eigen-sliders against trained LoRAs and other ways to edit, and write the page's table (most of an hour)
	$(BIN)/python benchmarks/leaderboard.py
	$(BIN)/python docs/tools/evaluation.py

$(VENV)/.docs: $(VENV)/.dev
	$(PIP) -e '.[docs]'
	@touch $@

docs: $(VENV)/.docs ## Build the site of docs/ into build/site; it fetches nothing from elsewhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@! grep -rlE '(src|href)="https?://[^"]*\.(js|css|woff2?)"|fonts\.g|unpkg' build/site --include='*.html'

hub: install ## Serve a Hugging Face Hub on loopback, to try publish and pull on one machine
	PYTHONPATH=tests $(BIN)/python -m hub

reference: install ## Write the pages of docs/ that are made from the code
	$(BIN)/python docs/tools/reference.py docs/cli.md
	$(BIN)/python docs/tools/formats.py docs

REV := 4eaeaac
size: install ## Print lines, modules, words, commands and options, beside those of the revision REV
	$(BIN)/python benchmarks/size.py --rev $(REV)

clean: ## Remove what the targets above made
	rm -rf $(VENV) demo.png
