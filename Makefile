# The two commands: `make demo` and `make test`. Both build the environment in .venv first.
PYTHON ?= python3

.PHONY: demo test lint lock clean

demo: .venv
	.venv/bin/python search/run.py --space blstm --data demo --trials 10 --max-epochs 9

test: .venv
	.venv/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile

lint: .venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The stamp is written last, so an interrupted installation is taken up again.
.venv: .venv/installed
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Étude needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Name another with make PYTHON=python3.12.")'
	@echo "Building the environment in .venv: PyTorch, Ray and what they need, 6 GB, a few minutes …"
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --progress-bar off --no-deps --require-hashes -r requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch .venv/installed

# Versions move only here; needs uv (https://docs.astral.sh/uv/). rfc3987-syntax, which Jupyter wants for checking
# addresses, compiles a grammar wherever Ray imports jsonschema, 1.6 s of processor time in every process, and jsonschema
# does without it.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links \
		--no-emit-package rfc3987-syntax --no-emit-package lark --upgrade -o requirements.lock

clean:
	rm -rf .venv
