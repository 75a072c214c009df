# make demo and make test are all that a newcomer needs. Both create .venv first, once.
# Another interpreter than python3: make PYTHON=python3.12 test
PYTHON ?= python3

.PHONY: setup setup-dev demo test lint docs dist test-wheel check-pins audit bench

setup:
	@$(PYTHON) scripts/setup.py

setup-dev:
	@$(PYTHON) scripts/setup.py --dev

# Two arms of recipe mini-switched at once, fewer updates and a sample of the test split. FULL=1: the whole recipe.
FORM = $(if $(FULL),,--arm baseline --arm switched 'seeds=[1]' updates=150 evaluation.limit=60 evaluation.base=false)
demo: setup
	.venv/bin/midalign-train mini-switched --jobs 2 output=demo $(FORM)
	.venv/bin/midalign leaderboard build --results demo/results --output demo/leaderboard

# Less than ten minutes on two cores. FULL=1: whole data sets and runs of many processes too.
test: setup-dev
	OMP_NUM_THREADS=1 .venv/bin/pytest --ignore tests/e2e -n 2 --dist loadfile --no-loadscope-reorder \
		$(if $(FULL),,-m "not exhaustive")

lint: setup-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	.venv/bin/python scripts/checks/naming.py

# The wheel and the source distribution, in dist/.
dist: setup-dev
	.venv/bin/python -m build --no-isolation

# Builds a wheel, installs it alone and uses it from another directory.
test-wheel: setup-dev
	.venv/bin/pytest tests/e2e

docs: setup-dev
	.venv/bin/sphinx-build --fresh-env --fail-on-warning --keep-going --nitpicky --quiet docs docs/_build/html
	@echo "External links, not fetched: docs/_build/html/external-links.txt"
	@echo "Open docs/_build/html/index.html in a browser"

# The pins of every platform resolve on every supported Python. Needs the package index, and takes minutes.
check-pins: setup-dev
	.venv/bin/python scripts/checks/pins.py

# Known vulnerabilities of the pinned packages. Needs a network, and an environment of its own.
audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet pip-audit
	for pins in constraints/*.txt; do .venv-audit/bin/pip-audit --disable-pip --no-deps -r $$pins || exit 1; done

bench: setup-dev
	set -e; for script in scripts/benchmarks/*.py; do .venv/bin/python $$script; done
