# make demo   from phantoms to a fine-tuned Stable Diffusion, its images, their scores and a report; offline, on a CPU
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
	$(DERMGEN) phantom --output_dir demo/phantoms --num_lesions 350
	$(DERMGEN) prepare ham10000 --data_dir demo/phantoms --output_dir demo/manifest \
		--resolution 64 --crop lesion --caption_synonyms
	$(DERMGEN) tiny --data_dir demo/manifest --output_dir demo/base --exclude_classes vasc
	$(LAUNCH) train_scripts/dreambooth_lora.py --config train_scripts/configs/dreambooth_lora_tiny.yaml
	$(LAUNCH) -m dermgen.cli generate --model demo/lora_vasc --output_dir demo/synthetic \
		--classes vasc:64,mel:32,df:32 --guidance_scale 3 --batch_size 32
	$(LAUNCH) train_scripts/classifier.py --config train_scripts/configs/classifier_tiny.yaml
	$(DERMGEN) evaluate --real demo/manifest --synthetic demo/synthetic --output_dir demo/scores \
		--extractor demo/classifier --lpips none
	$(DERMGEN) audit --real demo/manifest --synthetic demo/synthetic --output_dir demo/audit --max_copy_rate 0.1
	$(DERMGEN) filter --real demo/manifest --synthetic demo/synthetic --output_dir demo/filtered \
		--scorer classifier --run demo/classifier --extractor pixels --keep 0.5
	$(DERMGEN) study --config train_scripts/configs/study_tiny.yaml
	$(DERMGEN) report demo --output_dir demo/report
	@echo
	@echo "Open        demo/report/report.html          (data, training, images, scores, copies, filter, study)"
	@echo "Look at     demo/synthetic/sheets/vasc.png   (a class the base model had never seen)"
	@echo "            demo/synthetic/images            (128 images, metadata.csv records how each was made)"
	@echo "            demo/lora_vasc                   (the run: samples/, metrics.jsonl, the adapter)"
	@echo "Try next    $(DERMGEN) generate --model demo/lora_vasc --prompt 'malignant skin lesion' --guidance_scale 3 --output_dir demo/malignant"
	@echo "            $(DERMGEN) generate --model demo/base --classes bkl:16,nv:16 --guidance_scale 3 --output_dir demo/from_base"
	@echo "            $(BIN)/tensorboard --logdir demo/lora_vasc/logs"

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
		--autoencoder_channels 32 --latent_channels 8 --autoencoder_steps 1500 --autoencoder_batch_size 16 \
		--unet_channels 64 128 --text_width 128 --unet_steps 3000 --unet_batch_size 32
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
