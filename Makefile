# make demo   from drawn lesions to a fine-tuned Stable Diffusion, its images, their scores and a report; offline, on a CPU
# make test   the test suite, on all cores
# make quick  the part of it that takes under 3 minutes on 2 cores
# make check  lint and format
# make base   train the built-in base model `phantom` anew; about an hour on 2 cores
# make test-newest   the test suite with the newest releases of everything, in an environment of its own
# make lock   write the versions of that environment to requirements/tested.txt, once its tests have passed

PYTHON ?= python3
BIN := .venv/bin
DERMGEN := $(BIN)/dermgen
LAUNCH := $(BIN)/accelerate launch --quiet --config_file accelerate_configs/cpu.yaml

.PHONY: demo test quick check base clean-demo test-newest lock

demo: .venv/installed
	$(DERMGEN) demo

test: .venv/installed
	$(BIN)/python -m pytest -n logical --dist loadfile --durations 30

quick: .venv/installed
	$(BIN)/python -m pytest -n logical --dist loadfile -m "not slow"

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

base: .venv/installed
	$(DERMGEN) phantom --output_dir base/phantoms --num_lesions 3000 --seed 1 --classes akiec bcc bkl df mel nv
	$(DERMGEN) prepare ham10000 --data_dir base/phantoms --output_dir base/manifest --resolution 64 --crop lesion \
		--caption_synonyms --caption_template "dermoscopic image of {dx}" --split 0.9 0.05 0.05
	$(LAUNCH) -m dermgen.cli tiny --data_dir base/manifest --output_dir base/pipeline --resolution 64 \
		--autoencoder_channels 32 --latent_channels 8 --autoencoder_steps 1200 --autoencoder_batch_size 16 \
		--unet_channels 64 128 --text_width 128 --unet_steps 1600 --unet_batch_size 32
	$(BIN)/python benchmarks/base_model.py base/pipeline dermgen/models/phantom

test-newest:
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --upgrade pip
	.venv-newest/bin/pip install --quiet -e '.[dev]'
	.venv-newest/bin/pip check
	.venv-newest/bin/python -m pytest -n logical --dist loadfile

lock:
	(echo "# Versions tried together, on $$(.venv-newest/bin/python -V), $$(uname -sm), $$(date +%F)."; \
	echo "# pip install --constraint requirements/tested.txt -e ."; \
	.venv-newest/bin/pip freeze --exclude-editable) > requirements/tested.txt

clean-demo:
	rm -rf demo

.venv/installed: pyproject.toml requirements/tested.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dermgen needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint requirements/tested.txt -e '.[dev]'
	@touch $@
