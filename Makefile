# `make demo` and `make test` each set everything up first. Needs Debian or Ubuntu (or any Linux) with Python 3.11+.
#
#   PYTHON=python3.12   the interpreter, when it is not one of the names tried below
#   VENV=.venv          where everything is installed
#   TORCH=...           what `pip install` is given for torch, for another build of the locked version. The default
#                       brings CUDA; "torch==2.13.0 --index-url <PyTorch's CPU index>" is a tenth of the size
#   JOBS=2              test processes

VENV ?= .venv
TORCH ?= torch==2.13.0
JOBS ?= 2
EXTRAS = train,face,tensorrt,dev
SAMPLES = humo_rt/assets/samples

BIN := $(VENV)/bin
RUNS_311 = -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(name) $(RUNS_311) && echo $(name))))

.PHONY: demo test format system clean
.DEFAULT_GOAL := test

demo: $(VENV)/installed
	$(BIN)/humo-rt generate --preset nano --seed 0 \
		--prompt "A man with curly black hair and a moustache talks to the camera. He wears a blue shirt." \
		--image $(SAMPLES)/portrait.png --audio $(SAMPLES)/librivox_0930.wav --output demo.mp4 --contact-sheet demo.png

test: $(VENV)/installed
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Torch goes first and alone, so that TORCH may name another index without moving the other packages there.
$(VENV)/installed: pyproject.toml setup.py constraints.txt | system
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

system:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer was not found: sudo apt-get install python3 python3-venv," \
		"or name one with PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" $(RUNS_311) || { echo "$(PYTHON) is not Python 3.11 or newer: name another with PYTHON=" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments:" \
		"sudo apt-get install python3-venv" >&2; exit 1; }

clean:
	rm -rf $(VENV) build dist *.egg-info demo.mp4 demo.png humo_rt/_C.*.so
