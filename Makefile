# `make demo` (DATA=<folder> for the real X-rays) shows everything, `make test` and `make lint` check it.
PYTHON ?= python3.11
VENV ?= .venv
DATA ?=
# bf16 halves the time of a step where the processor has it in hardware
PRECISION ?= $(shell grep -q avx512_bf16 /proc/cpuinfo 2>/dev/null && echo bf16 || echo no)
# the launcher's default is one thread for a process
THREADS ?= $(shell getconf _NPROCESSORS_ONLN)
BIN := $(VENV)/bin
LAUNCH := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --dynamo_backend no \
	--num_cpu_threads_per_process $(THREADS) --mixed_precision $(PRECISION)
export HF_UPDATE_DOWNLOAD_COUNTS := 0
export DATA NIH QUICK BIN PRECISION

ifeq ($(strip $(DATA)),)
SOURCE := demo/phantoms
RUNS := demo/runs-phantoms
SMALL := --image_size 64 --epochs 10
FULL := --image_size 128 --epochs 4
TB := --image_size 64 --epochs 45 --batch_size 8
LICENSE := apache-2.0
else
SOURCE := $(DATA)
RUNS ?= demo/runs
SMALL := --image_size 128 --epochs 30
FULL := --image_size 256 --epochs 10
TB := --image_size 96 --epochs 50
# that of the Shenzhen masks
LICENSE := cc-by-nc-sa-4.0
endif
# Lungs: most epochs on small images, the last ones on larger ones. TB: of the whole X-ray, as any program shows it.
TRAIN = $(LAUNCH) -m hub_models.training --data "$(SOURCE)"
LUNGS := --batch_size 4 --augment strong --ema 0.995
FIRST := $(LUNGS) --model segformer-light --from_scratch --learning_rate 1.5e-3
THEN := $(LUNGS) --learning_rate 6e-4
SCREEN := --task tb_classification --model resnet-light --from_scratch --batch_size 16 --learning_rate 2e-3 \
	--weight_decay 0.05 --label_smoothing 0.1 --ema 0.99 --keep last

# The tests' Hub, on the loopback address; it ends with the command, and demo/hub keeps what was pushed
HUB := PYTHONPATH=tests $(BIN)/python -m loopback_hub --keep demo/hub --

.PHONY: install demo hub figures docs test coverage test-slow test-legacy trials lint clean

install: $(VENV)/.installed

# torch first, by its exact pin: no other package then asks for another build of it
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[models,read,export,app,dicom,lora,tracking,docs,test]"
	touch $@

demo: install
	mkdir -p demo
	$(if $(strip $(DATA)),,$(BIN)/cxm phantoms --output $(SOURCE))
	$(BIN)/cxm audit --data "$(SOURCE)" --json demo/audit.json
	$(BIN)/cxm show --data "$(SOURCE)"
	$(TRAIN) --output $(RUNS)/lungs-small $(FIRST) $(SMALL)
	$(TRAIN) --output $(RUNS)/lungs --model $(RUNS)/lungs-small $(THEN) $(FULL)
	$(TRAIN) --output $(RUNS)/tb $(SCREEN) $(TB)
	$(HUB) $(MAKE) --no-print-directory hub OWNER=demo
	@echo "Done. Lungs found: $(RUNS)/predictions/overlays; a row for each X-ray: $(RUNS)/predictions/predictions.csv"
	@echo "The models, their metrics and pictures: $(RUNS)/lungs and $(RUNS)/tb; what was pushed, with cards: demo/hub"

# Models and data go to the Hub of OWNER, private, and from there to masks and a table of the test split
OWNER ?= $(error pass OWNER=<your name on the Hub>)
hub:
	$(BIN)/cxm push --model $(RUNS)/lungs --repo_id $(OWNER)/chest-xray-lungs --license $(LICENSE)
	$(BIN)/cxm push --model $(RUNS)/tb --repo_id $(OWNER)/chest-xray-tb --license $(LICENSE)
	$(BIN)/cxm export --data "$(SOURCE)" --repo_id $(OWNER)/chest_xray_masks
	rm -rf $(RUNS)/predictions
	$(BIN)/cxm predict --data $(OWNER)/chest_xray_masks --split test --output $(RUNS)/predictions \
		--segmenter $(OWNER)/chest-xray-lungs --classifier $(OWNER)/chest-xray-tb --overlays

# Every number of docs/results.md, with DATA=<the set> NIH=<folder>: four and a half hours of two cores; figures.mk says how
figures: install
	$(if $(or $(QUICK),$(and $(DATA),$(NIH))),,$(error pass DATA=<folder or zip of the set> NIH=<folder>, or QUICK=1 for phantoms))
	$(MAKE) --no-print-directory --jobs 2 --file figures.mk

# The pages of docs/ to build/docs; --strict ends at a broken link, and nothing is fetched
docs: install
	$(BIN)/properdocs build --strict --config-file mkdocs.yml

# Two files of tests at a time, each test's programs on a core of their own: threads of two would wait for each other
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST)

# The same tests, and which lines of the package they run in their own process
coverage: PYTEST += --cov --cov-report=term:skip-covered
coverage: test

test-slow: install
	$(PYTEST) -m slow --durations 20

# Kills, damaged files, a failing Hub, full disks and hours of work: about 30 minutes of two cores. It prints the table
# of docs/reliability.md; SHARE=0.1 does a tenth
SHARE ?= 1
trials: install
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m trials --share $(SHARE)

# The builder on older lines of datasets, each in an environment of its own: 3.6.0 is the last that runs scripts
test-legacy: $(VENV)-datasets3/.installed $(VENV)-datasets4/.installed
	$(VENV)-datasets3/bin/python -m pytest -m slow tests/test_legacy.py
	PYTHONPATH=. $(VENV)-datasets4/bin/python -m pytest tests/test_chest_xray_masks.py

$(VENV)-datasets%/.installed: tests/constraints-datasets%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint $< datasets pillow pydicom pytest
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf demo build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*
