# Everything runs in a virtual environment of its own, made on first use.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-all parity check release-check bench docs site clean

demo: $(VENV)/installed            ## classify the photos in examples/photos with the embedded checkpoint
	$(BIN)/tfdeit predict examples/photos

test: $(VENV)/tested $(VENV)/engines/installed  ## run the tests, slow ones too
	$(BIN)/pytest -m "not heavy" -n 2 --dist worksteal

test-all: $(VENV)/tested $(VENV)/engines/installed  ## run all tests, heavy ones too, and measure their coverage
	$(BIN)/pytest -m "heavy or not heavy" -n 2 --dist worksteal --cov --cov-fail-under 95

parity: $(VENV)/tested             ## compare with transformers and timm, and one backend with another
	$(BIN)/pytest -m "slow or not slow" tests/test_parity*.py tests/test_backends.py

check: $(VENV)/tested              ## lint, formatting, types, and that the package builds
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m build --outdir $(VENV)/dist

release-check:                     ## build into dist, and try the wheel in an empty environment
	rm -rf dist $(VENV)/release $(VENV)/empty
	$(PYTHON) -m venv $(VENV)/release
	$(VENV)/release/bin/pip install build twine
	$(VENV)/release/bin/python -m build
	$(VENV)/release/bin/twine check --strict dist/*
	$(PYTHON) -m venv $(VENV)/empty
	$(VENV)/empty/bin/pip install dist/*.whl
	cd $(VENV)/empty && bin/tfdeit predict $(CURDIR)/examples/photos --quiet --json

bench: $(VENV)/tested              ## one JSON line a measurement
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

docs: $(VENV)/tested               ## renew what is generated in docs/: the zoo's table, the pictures, and the notebook's
	$(BIN)/python -m tfdeit.zoo docs/zoo.md
	$(BIN)/python docs/pictures.py
	$(BIN)/python docs/tour.py

site: $(VENV)/tested               ## the documentation as a site, in $(VENV)/site
	$(BIN)/mkdocs build --strict --site-dir $(VENV)/site

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/python -m pip install --no-compile --editable .[dev,docs,export,fast,jax,parity,serving,test,tfds]
	$(BIN)/python -m pip install --no-deps timm==1.0.31  # not its torchvision, which must be built for the torch there is
	touch $@

# Beam, KServe and TensorFlow's classes in transformers 4 want older versions of what tfdeit uses: they have an
# environment of their own.
$(VENV)/engines/installed:
	mkdir -p $(VENV)
	$(PYTHON) -m venv $(VENV)/engines
	$(VENV)/engines/bin/pip install --no-compile apache-beam kserve tensorflow "transformers<5" tf-keras argcomplete
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
