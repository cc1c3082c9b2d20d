# Everything happens in .venv: `make demo` and `make test` need a Python 3.11 or newer, and nothing else.
# torch is the CPU build from PyTorch's own index. UV_TORCH_BACKEND=auto chooses the build for your GPU.

PYTHON ?= python3
# Relative, since make takes a space in a path for its end.
VENV := .venv
PY := $(VENV)/bin/python
# jsii and the CDK CLI find Node there.
ACTIVATED := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

# Modules are compiled when they are first imported, and the result is kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-text demo-cascade demo-release demo-retraining test verify verify-versions verify-arm64 verify-explanations verify-models verify-gallery bench docs dist lint format audit hashes venv clean

demo: $(VENV)/.demo ## deploy the reference pipeline to an embedded AWS, and label real photographs: CONSOLE=1 leaves it running, with a page
	@$(ACTIVATED) $(PY) -m demos.photographs $(if $(CONSOLE),--console)

demo-text: $(VENV)/.text ## deploy the example for texts instead, and find sentences that mean the same
	@$(ACTIVATED) $(PY) -m demos.sentences

demo-cascade: $(VENV)/.demo ## deploy the example with two models, and see which of them labels which photograph
	@$(ACTIVATED) $(PY) -m demos.cascade

demo-release: $(VENV)/.demo ## release a bad model, and watch how it is rolled back, and why
	@$(ACTIVATED) $(PY) -m demos.release

demo-retraining: $(VENV)/.demo ## train a model again with shuffled labels and with right ones: the gate lets one of them pass
	@$(ACTIVATED) $(PY) -m demos.retraining

test: venv ## all tests: pytest's own options go to PYTEST, as in PYTEST='-m "not e2e" -x'
	$(ACTIVATED) $(PY) -m pytest -n 4 --dist loadgroup $(PYTEST)

verify: venv ## show the reference apps to linters and rules that nobody here wrote: VERIFY="templates" asks one group
	@$(ACTIVATED) $(PY) -m verify $(VERIFY)

verify-versions: venv ## synthesize the reference apps with the oldest allowed and the newest CDK, and compare the templates
	@$(ACTIVATED) $(PY) -m verify.versions $(VERIFY)

verify-arm64: venv ## run the functions for arm64 and Python 3.14 under emulation, and compare them with this machine's
	@$(ACTIVATED) $(PY) -m verify.arm64 $(VERIFY)

verify-explanations: venv ## compare explanations of answers with those of shap, captum and xaitk-saliency
	@$(ACTIVATED) $(PY) -m verify.explanations

verify-models: venv ## build public models, and compare what their users see with float32: up to twenty minutes, or cases as in VERIFY="speech detector"
	@$(ACTIVATED) $(PY) -m verify.models $(VERIFY)

verify-gallery: venv ## build the recipes of the gallery again: minutes, or some as in VERIFY="detection"
	@$(ACTIVATED) $(PY) -m verify.gallery $(VERIFY)

bench: venv ## measure what docs/operate/performance.md says, and write it there: 15 minutes on a quiet machine, or subjects as in BENCH="warm handler"
	@$(ACTIVATED) $(PY) -m benchmarks $(BENCH)

docs: venv ## build the documentation site into .site/html, with its reference; broken links fail
	@$(ACTIVATED) PYTHONPATH=constructs:lambda_src $(PY) docs/scripts/site.py

dist: venv ## build the wheel and the source distribution into dist/, and check what PyPI would refuse
	rm -rf dist
	$(PY) -m build
	$(PY) -m twine check --strict dist/*
	$(PY) -m check_wheel_contents dist/*.whl

lint: venv ## what CI checks before the tests
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	PYTHONPATH=constructs:lambda_src $(PY) -c 'from importlinter.cli import lint_imports_command as lint; lint(["--no-cache"])'

format: venv ## repair what can be repaired
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

audit: venv ## ask a public database for known vulnerabilities of the functions' requirements
	@$(ACTIVATED) $(PY) requirements/audit.py

hashes: venv ## write the hashes of the functions' requirements, after you changed a version in lambda_src/requirements
	@$(ACTIVATED) $(PY) requirements/hashes.py

venv: $(VENV)/.dev ## the virtual environment, with everything in it

# Each set adds to the one before. Its stamp comes last, so that an interrupted installation is taken up again.
INSTALL := $(PYTHON) requirements/install.py $(VENV)
VERSIONS := pyproject.toml requirements/constraints.txt requirements/install.py

$(VENV)/.demo: $(VERSIONS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11: install one, or name it, as in make PYTHON=python3.13"; exit 1; }
	@$(INSTALL) model,local,reference
	@touch $@

$(VENV)/.text: $(VENV)/.demo requirements/no-deps.txt
	@$(INSTALL) model,local,reference --alone requirements/no-deps.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.text
	@$(INSTALL) model,local,review,anywhere,reference,dev
	@touch $@

clean: ## remove what was made here; the cache of models and bundles stays
	rm -rf $(VENV) .demo .site .verify cdk.out dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
