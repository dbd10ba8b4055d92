# Everything happens in this directory's own virtual environment, made when first needed.
#
#   make run        a cluster of three nodes on this machine, until Ctrl-C
#   make test       every check and the whole test suite
#   make check      format, lint and types only
#   make bench      the benchmark, against a cluster it starts itself
#   make simulate   2,000 seeds of the simulation
#   make chaos      two minutes of a cluster that is broken again and again, to watch

PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	command -v $$name >/dev/null 2>&1 && $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$name; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RUNTIME := $(VENV)/.runtime
EXTRAS :=
SEEDS ?= 2000

.PHONY: run test check format bench simulate chaos clean

# The broker alone; what tests need is several times as much.
run: $(RUNTIME)
	$(BIN)/raftbroker dev

# Compiled first: tests start hundreds of processes, and where PYTHONDONTWRITEBYTECODE is set each would compile anew.
test: check
	$(BIN)/python -m compileall -q raftbroker consensus bench jepsen tests
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/python -m bench

simulate: $(INSTALLED)
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

chaos: $(INSTALLED)
	$(BIN)/python -m jepsen test --workload log --nodes 3 --faults kill,pause,partition --time-limit 120 --rate 100

# Stamps are made last: an install that was interrupted is done again.
$(INSTALLED): EXTRAS := [dev]
$(INSTALLED) $(RUNTIME): pyproject.toml
	@test -n "$(PYTHON)" || { echo "raftbroker needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "cannot make $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.$(EXTRAS)'
	@touch $@ $(RUNTIME)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
