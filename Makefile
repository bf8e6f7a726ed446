# Two commands on a fresh machine: `make demo` and `make test`. Neither needs root.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.edgeqrl-setup
SB3_STAMP := $(VENV)/.edgeqrl-setup-sb3

.PHONY: help setup demo test test-all check docs benchmarks clean

help:
	@echo "make setup      create $(VENV) with everything edgeqrl needs"
	@echo "make demo       convert the LunarLander DQN of the zoo for mps2-an386"
	@echo "make test       the tests that need no root and no Debian packages"
	@echo "make test-all   what make test runs, then all that needs the Debian packages in .ci/run"
	@echo "make check      ruff, mypy, generated files are current"
	@echo "make docs       remake the generated pages and the README's picture"
	@echo "make benchmarks speed and size, counted"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] < (3, 14)))' \
		|| { echo "edgeqrl needs Python 3.11 to 3.13; say which with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV): TensorFlow is large, this takes a few minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all]" --group dev
	@touch $@

# What tests compare with, and the tool itself never needs. PyPI's PyTorch brings CUDA; the small one comes with
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
$(SB3_STAMP): $(STAMP)
	@echo "adding Stable-Baselines3 and PyTorch to $(VENV), for the tests"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[all,sb3]"
	@touch $@

demo: setup
	@$(BIN)/edgeqrl convert zoo:lunarlander-dqn --env LunarLander-v3 --board mps2-an386 -o build/lunarlander

test: $(SB3_STAMP)
	@$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-all: test build/node_modules build/arm64
	@$(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadfile

# A model of the whole RP2040, from the npm registry.
build/node_modules:
	@mkdir -p build
	@cd build && npm install --silent --no-fund --no-audit --ignore-scripts rp2040js@1.4.1

# A root of 64-bit Debian for Arm with LiteRT and tflite-runtime, from Debian and PyPI.
build/arm64: tests/make_arm64.sh
	@echo "making $@: Debian packages and wheels for 64-bit Arm"
	@mkdir -p build
	@bash tests/make_arm64.sh $(BIN)/python $@

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python docs/generate.py --check

docs: setup
	@$(BIN)/python docs/generate.py

benchmarks: setup
	@$(BIN)/python -m benchmarks.engine --page docs/benchmarks.md --plot docs/images/engine.svg
	@$(BIN)/python -m benchmarks.engine --model d e --core cortex-m0plus cortex-m4 cortex-m55 rv32imc --optimize O2 \
		--bits 8 4 3 2 --page docs/benchmarks.md
	@$(BIN)/python benchmarks/rates.py
	@TF_CPP_MIN_LOG_LEVEL=2 TF_ENABLE_ONEDNN_OPTS=0 $(BIN)/python benchmarks/rollout.py
	@$(BIN)/python benchmarks/host.py --models a b c d e f --orders
	@$(BIN)/python benchmarks/convert.py
	@$(BIN)/python benchmarks/startup.py
	@$(BIN)/python benchmarks/verdict.py --plots docs/images --page docs/calibration.md

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
