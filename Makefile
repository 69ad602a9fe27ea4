# The commands of the README do all set-up on a fresh machine: `make demo`, `make app` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

TESTING := beartype pytest pytest-timeout
# What the oldest supported versions must pass; the families of tests/support/sweep are those of the newest.
CORE := $(addprefix tests/,methods/test_twins.py methods/test_properties.py methods/test_edits.py methods/test_as_found.py \
	methods/test_refusals.py unit/test_provenance.py unit/test_targets.py models/test_models.py models/test_pictures.py \
	models/test_texts.py models/test_zoo.py)

.PHONY: demo app space test coverage test-all test-oldest test-timm mutation lint format bench leaderboard docs site clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(READY)
	$(BIN)/python demo.py

app: $(READY)
	$(BIN)/regard app

# A folder to push as a Hugging Face Space: its README has the header that a Space needs, and that no other reader wants to see.
space:
	rm -rf build/space
	mkdir -p build/space/src
	cp app.py space/README.md space/requirements.txt LICENSE build/space
	cp -r src/regard build/space/src
	find build/space -name __pycache__ -prune -exec rm -r {} +

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not long" --durations=20 $(COVERAGE)

# The same tests, and which branches they leave out: fails below the floor of pyproject.toml.
coverage: COVERAGE = --cov --cov-report=term:skip-covered
coverage: test

test-all: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

.venv-oldest/.ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable ".[all]" $(TESTING)
	touch $@

test-oldest: .venv-oldest/.ready
	.venv-oldest/bin/python -m pytest -m "not long" $(CORE)

.venv-timm/.ready: pyproject.toml constraints-timm.txt
	$(PYTHON) -m venv .venv-timm
	.venv-timm/bin/python -m pip install --quiet --constraint constraints-timm.txt --editable . timm torchvision $(TESTING)
	touch $@

test-timm: .venv-timm/.ready
	.venv-timm/bin/python -m pytest tests/families/test_timm.py

# Which mutants of recording/ and attribution/ no test finds: MINUTES of them, drawn by SEED.
.venv-mutation/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-mutation
	.venv-mutation/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]" "cosmic-ray>=8.4,<9"
	touch $@

MINUTES ?= 30
SEED ?= 0
mutation: .venv-mutation/.ready
	.venv-mutation/bin/python tests/mutation.py --minutes $(MINUTES) --seed $(SEED)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The zoo's own leaderboard: goes on where it was stopped.
leaderboard: $(READY)
	$(BIN)/python benchmarks/leaderboard.py --kept runs/leaderboard --write

bench: $(READY)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/captum.py
	$(BIN)/python benchmarks/recursion.py
	$(BIN)/python benchmarks/bti.py
	$(BIN)/python benchmarks/long_inputs.py
	$(BIN)/python benchmarks/several_targets.py
	$(BIN)/python benchmarks/verify.py
	$(BIN)/python benchmarks/causal.py
	$(BIN)/python benchmarks/scenes.py
	$(BIN)/python benchmarks/facts.py
	$(BIN)/python benchmarks/atoms.py
	$(BIN)/python benchmarks/attribution_error.py
	$(BIN)/python benchmarks/results.py
	$(BIN)/python benchmarks/runner.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/guidance.py
	$(BIN)/python benchmarks/heterogenous.py
	$(BIN)/python benchmarks/grounding.py

docs: $(READY)
	$(BIN)/python -m pytest tests/docs/test_docs.py

.venv-site/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["site"], sep="\n")' > .venv-site/requirements.txt
	.venv-site/bin/python -m pip install --quiet --requirement .venv-site/requirements.txt
	touch $@

site: .venv-site/.ready
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) .venv-oldest .venv-timm .venv-mutation .venv-site site build dist regard-demo *.egg-info
