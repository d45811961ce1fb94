# make demo   lesions from a fine-tuned Stable Diffusion, offline, on a CPU
# make test   the test suite
# make check  lint and format

PYTHON ?= python3
BIN := .venv/bin
DERMGEN := $(BIN)/dermgen
LAUNCH := $(BIN)/accelerate launch --quiet --config_file accelerate_configs/cpu.yaml

.PHONY: demo test check clean-demo

demo: .venv/installed
	$(DERMGEN) phantom --output_dir demo/phantoms --num_lesions 350
	$(DERMGEN) prepare ham10000 --data_dir demo/phantoms --output_dir demo/manifest \
		--resolution 64 --crop lesion --caption_synonyms
	$(DERMGEN) tiny --data_dir demo/manifest --output_dir demo/base --exclude_classes vasc
	$(LAUNCH) train_scripts/dreambooth_lora.py --config train_scripts/configs/dreambooth_lora_tiny.yaml
	$(LAUNCH) -m dermgen.cli generate --model demo/lora_vasc --output_dir demo/synthetic \
		--classes vasc:32,mel:16,df:16 --guidance_scale 3 --batch_size 16
	@echo
	@echo "Look at     demo/synthetic/sheets/vasc.png   (a class the base model had never seen)"
	@echo "            demo/synthetic/images            (64 images, metadata.csv tells how each was made)"
	@echo "            demo/lora_vasc                   (the run: samples/, metrics.jsonl, the adapter)"
	@echo "Try next    $(DERMGEN) generate --model demo/lora_vasc --prompt 'malignant skin lesion' --guidance_scale 3 --output_dir demo/malignant"
	@echo "            $(DERMGEN) generate --model demo/base --classes bkl:16,nv:16 --guidance_scale 3 --output_dir demo/from_base"
	@echo "            $(BIN)/tensorboard --logdir demo/lora_vasc/logs"

test: .venv/installed
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean-demo:
	rm -rf demo

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "dermgen needs Python 3.10 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@
