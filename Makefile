# make demo   a model learns on a device, from a fresh clone, in minutes
# make test   all checks and tests; .ci/run calls this
# make faults every row of the tables of kills and cuts, and a long storm: about half an hour
# make arm64  the agent's wheel and its tests in an emulated 64-bit Arm Debian (root; scripts/arm64.sh)
#
# The first two do the whole set-up first: a virtual environment in .venv, the pinned dependencies of
# constraints.txt, and the native build of llama-cpp-python (about four minutes on two cores). The
# built wheel is kept below $(CACHE), outside the checkout; it is tied to this CPU (and to CMAKE_ARGS,
# if you set it) and named for both.

PYTHON ?= python3
VENV   ?= .venv
CACHE  ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nanofleet
# An open range would pull gigabytes of CUDA. With PyTorch's own index of CPU builds:
#   make demo TORCH='torch==2.13.0 --index-url URL'
# On 64-bit Arm 2.10 is the last release that brings no CUDA.
TORCH  ?= torch==$(if $(filter aarch64,$(shell uname -m)),2.10.0,2.13.0)

BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check --quiet
LLAMA  := llama-cpp-python==0.3.36
BUILD  := $(strip -DGGML_NATIVE=ON -DLLAVA_BUILD=OFF $(CMAKE_ARGS))
CPU    := $(shell (uname -m; grep -m2 -E '^(model name|flags|Features)' /proc/cpuinfo; printf %s '$(CMAKE_ARGS)') | sha256sum | cut -c1-12)
WHEELS := $(CACHE)/wheels/llama-cpp-python-0.3.36-$(CPU)

.PHONY: demo test faults arm64 check format protos setup wheel package clean

demo: setup
	$(BIN)/nanofleet demo $(DEMO_FLAGS)

test: check
	$(BIN)/pytest $(PYTEST_FLAGS)

faults: setup
	$(BIN)/pytest --faults all tests/faults $(PYTEST_FLAGS)

arm64: setup
	PYTHON=$(BIN)/python CACHE='$(CACHE)' scripts/arm64.sh

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m protos.generate --check
	$(BIN)/pytest --quiet tests/test_imports.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: setup
	$(BIN)/python -m protos.generate

package: setup
	$(BIN)/python -m build

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt | $(BIN)/pip
	@test -d '$(WHEELS)' || $(MAKE) --no-print-directory wheel
	@echo "set-up: torch, then everything else that constraints.txt pins"
	$(PIP) install --constraint constraints.txt $(TORCH)
	$(PIP) install --constraint constraints.txt --find-links '$(WHEELS)' --editable '.[all,onnx,reference,dev]'
	$(BIN)/pip check
	@touch $@

# Without pip's own cache: a wheel in there may have been built for another CPU or in another way.
wheel:
	@command -v c++ > /dev/null || { echo "set-up: llama-cpp-python is built from source and needs a C++ compiler. On Debian or Ubuntu: apt install build-essential"; exit 1; }
	@echo "set-up: building llama-cpp-python for this CPU, once, about four minutes on two cores"
	@rm -rf '$(WHEELS).partial'
	CMAKE_ARGS="$(BUILD)" $(PIP) wheel --no-cache-dir --no-deps --wheel-dir '$(WHEELS).partial' $(LLAMA)
	@mv '$(WHEELS).partial' '$(WHEELS)'

$(BIN)/pip:
	@$(PYTHON) -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' || { echo "set-up: Python 3.11 or later with venv is needed (the agent alone runs on 3.10). On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info
