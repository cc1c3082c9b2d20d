# Everything happens in .venv: `make demo` and `make test` need a Python 3.11 or newer, and nothing else.
# On Linux, PyPI's torch comes with CUDA: with PIP_EXTRA_INDEX_URL set to the index of PyTorch's CPU builds, it does not.

PYTHON ?= python3
VENV := $(CURDIR)/.venv
PY := $(VENV)/bin/python
# jsii and the CDK CLI find Node there.
ACTIVATED := PATH="$(VENV)/bin:$$PATH"

.PHONY: demo demo-text demo-cascade test bench lint format venv clean

demo: venv ## deploy the reference pipeline to an embedded AWS, and label real photographs
	@$(ACTIVATED) $(PY) demo.py

demo-text: venv ## deploy the example for texts instead, and find sentences that mean the same
	@$(ACTIVATED) $(PY) demo_text.py

demo-cascade: venv ## deploy the example with two models, and see which of them labels which photograph
	@$(ACTIVATED) $(PY) demo_cascade.py

test: venv ## all tests: pytest's own options go to PYTEST, as in PYTEST='-m "not e2e" -x'
	$(ACTIVATED) $(PY) -m pytest -n 4 --dist loadgroup $(PYTEST)

bench: venv ## measure what docs/performance.md says, and write it there: 15 minutes on a quiet machine
	@$(ACTIVATED) $(PY) -m benchmarks $(BENCH)

lint: venv ## what CI checks before the tests
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

format: venv ## repair what can be repaired
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

venv: $(VENV)/installed ## the virtual environment, with everything in it

# The stamp comes last, so that an interrupted installation is taken up again.
$(VENV)/installed: pyproject.toml requirements/constraints.txt requirements/no-deps.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11: install one, or name it, as in make PYTHON=python3.13"; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into .venv (once; a few minutes, torch is large)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -e '.[model,local,reference,dev]'
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/no-deps.txt
	@touch $@

clean: ## remove what was made here; the cache of models and bundles stays
	rm -rf $(VENV) cdk.out dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
