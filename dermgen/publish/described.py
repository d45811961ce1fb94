"""A finished run, told for publication: which files are the model, how it was trained, what of it can be said."""

import json
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import safe_open

from dermgen import runs
from dermgen.classify.comparison import intervals
from dermgen.config import InputError
from dermgen.data import captions
from dermgen.data.cache import hash_file
from dermgen.data.set_facts import SetFacts
from dermgen.data.trained_on import TrainedOn
from dermgen.labels import from_labels
from dermgen.publish.privacy import without_paths
from dermgen.results.classifier import ClassifierResult
from dermgen.results.common import is_one, read
from dermgen.settings.dreambooth import UNET_TARGETS
from dermgen.stable_diffusion.weights import LORA_FILE
from dermgen.training.checkpoints import checkpoints, step_of
from dermgen.training.run_record import RunRecord

# Settings that a reader of a card looks for; those that a method lacks, or that are off, are left out.
TRAINING = (
    "resolution seed max_train_steps num_train_epochs train_batch_size gradient_accumulation_steps learning_rate "
    "discriminator_learning_rate lr_scheduler lr_warmup_steps adam_weight_decay ema_decay mixed_precision snr_gamma "
    "prediction_type with_prior_preservation prior_loss_weight num_class_images class_prompt caption_dropout rank "
    "lora_alpha lora_dropout unet_steps autoencoder_steps loss r1_gamma cycle_weight kl_weight random_flip "
    "random_rotation random_crop intensity_scaling class_weights label_smoothing mixup_alpha oversample "
    "freeze_stages optimizer"
).split()
SMALL_CLASS = 200  # training images


@dataclass(frozen=True)
class Described:
    """A model: the files that are sent, by their names there, and what its card tells of it."""

    folder: Path
    template: str
    files: dict[str, Path]
    sha256: str
    draws: bool  # images: a model that does can copy
    whole: bool  # the base model's weights are among those sent
    model: dict[str, Any]
    metadata: dict[str, Any]
    record: RunRecord

    @property
    def trained_on(self) -> TrainedOn:
        return self.record.trained_on

    @property
    def sent_base(self) -> str | None:
        """Name on the Hub of the base model whose weights are among those sent; None without such."""
        return self.model.get("base_model") if self.whole else None

    def training(self) -> list[tuple[str, str]]:
        """Settings for a table."""
        known = {name: self.record.settings.get(name) for name in TRAINING}
        if self.record.finished_step is not None:
            del known["num_train_epochs"]
            known["max_train_steps"] = self.record.finished_step
        if known["random_crop"] == 1:
            del known["random_crop"]  # nothing is cut
        told = [(k, v) for k, v in known.items() if v not in (None, False, "", []) or k == "seed"]
        return [(name, without_paths(_text(value))) for name, value in told]

    def origin(self) -> list[tuple[str, str]]:
        """Where the model comes from, for a table."""
        record = self.record
        rows = [
            ("SHA-256 of the weights", f"`{self.sha256}`"),
            ("packages", ", ".join(f"{name} {version}" for name, version in record.packages.items())),
            ("Python", record.python),
            ("seed", str(record.settings.get("seed", ""))),
            ("command", f"`{shlex.join(without_paths(record.argv))}`"),
            ("run", record.run),
        ]
        if record.data_fingerprint:
            rows.append(("training data fingerprint", f"`{record.data_fingerprint}`"))
        return rows

    def cost(self) -> dict[str, Any] | None:
        """Time and device of the training; None where they were not noted."""
        seconds = self.record.training_seconds
        if seconds is None:
            return None
        unit, length = ("hours", 3600) if seconds >= 7200 else ("minutes", 60) if seconds >= 120 else ("seconds", 1)
        return {
            "time": f"{seconds / length:.1f} {unit}",
            "device": self.record.device,
            "processes": self.record.processes,
        }

    def limits(self) -> list[str]:
        """Classes with few training images."""
        counts: Counter[str] = Counter()
        for entry in self.trained_on.data:
            counts.update(entry.images_per_class)
        told = ", ".join(f"{code} ({n})" for code, n in sorted(counts.items()) if n < SMALL_CLASS)
        return [f"Classes with under {SMALL_CLASS} training images: {told}."] if told else []


def describe(folder: str | Path, weights: Literal["last", "best"] = "last") -> Described:
    """The finished run in a folder.

    Raises:
        InputError: if there is none, it has not finished, or it does not say what it has learnt.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    if (folder / "metadata.csv").exists():
        raise InputError(f"{folder} holds images, not a model: dermgen publish dataset {folder} …")
    record = RunRecord.read(folder)
    if not RunRecord.is_one(folder):
        raise InputError(
            f"{folder} has no provenance.json: it is no run of dermgen, so nothing is known of it to be told"
        )
    run = runs.find(folder, weights)
    if run is not None:
        found = _from_scratch(run, record)
    elif weights == "best":
        raise InputError("--weights best is for models trained from scratch, whose validations choose among weights")
    elif (folder / LORA_FILE).exists():
        found = _lora(record)
    elif (folder / "model_index.json").exists():
        found = _pipeline(record)
    elif is_one(ClassifierResult, folder) and (folder / "model.safetensors").exists():
        found = _classifier(record)
    else:
        raise InputError(f"the run in {folder} has not finished: the command that began it goes on")
    if not record.trained_on.data:
        raise InputError(f"{folder} does not say which data it has learnt: it has not got far enough, or is too old")
    gone_on = [step_of(p) for p in checkpoints(folder)]
    if record.finished_step is not None and gone_on and gone_on[-1] > record.finished_step:
        raise InputError(
            f"{folder} has gone on to step {gone_on[-1]} since its weights were written at step "
            f"{record.finished_step}: the same command finishes it"
        )
    return found


def _lora(record: RunRecord) -> Described:
    folder, settings = record.folder, record.settings
    with safe_open(folder / LORA_FILE, framework="np") as file:
        parameters = sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    base = _hub_id(record)
    model = {
        "base_model": base,
        "parameters": parameters,
        "rank": settings["rank"],
        "alpha": settings["lora_alpha"] or settings["rank"],
        "use_dora": settings["use_dora"],
        "train_text_encoder": settings["train_text_encoder"],
        "targets": settings["lora_target_modules"] or list(UNET_TARGETS),
        **_prompts(record),
    }
    metadata = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["lora", "dreambooth", "stable-diffusion", "diffusers-training"],
        "instance_prompt": settings["instance_prompt"],
    }
    if base:
        metadata |= {"base_model": base, "base_model_relation": "adapter"}
    files = {LORA_FILE: folder / LORA_FILE}
    return Described(
        folder,
        "dreambooth_lora",
        files,
        runs.weights_sha256(folder),
        True,
        False,
        model,
        metadata,
        record,
    )


def _pipeline(record: RunRecord) -> Described:
    folder, settings = record.folder, record.settings
    index = json.loads((folder / "model_index.json").read_text())
    parts = [name for name, kind in index.items() if isinstance(kind, list) and (folder / name).is_dir()]
    base = _hub_id(record)
    model = {
        "base_model": base,
        "parameters": record.trained_parameters,
        **_prompts(record),
    }
    metadata = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["dreambooth", "stable-diffusion", "diffusers-training"],
        "instance_prompt": settings.get("instance_prompt"),
    }
    if base:
        metadata |= {"base_model": base, "base_model_relation": "finetune"}
    files = {name: folder / name for name in ("model_index.json", *parts)}
    return Described(folder, "dreambooth", files, runs.weights_sha256(folder), True, True, model, metadata, record)


def _from_scratch(run: runs.TrainedRun, record: RunRecord) -> Described:
    names = [*run.method.networks, "scheduler", "model_index.json"]
    # The best weights are the networks alone; what goes with them lies beside the last ones.
    places = {name: place for name in names for place in (run.folder / name, run.weights / name) if place.exists()}
    model = {
        "parameters": record.parameters,
        "classes": run.classes,
        "class_conditional": run.class_conditional,
        "resolution": run.resolution,
    }
    task = "image-to-image" if run.method.translates else "unconditional-image-generation"
    metadata = {"library_name": "dermgen", "pipeline_tag": task, "tags": [run.name]}
    return Described(run.folder, run.name, places, run.sha256(), True, False, model, metadata, record)


def _classifier(record: RunRecord) -> Described:
    folder, settings = record.folder, record.settings
    results, config = read(ClassifierResult, folder), json.loads((folder / "config.json").read_text())
    base = _hub_id(record)
    model = {
        "base_model": base,
        "classes": results.classes,
        "architecture": config["architectures"][0].removesuffix("ForImageClassification"),
        "resolution": settings["resolution"],
        "wide_head": bool(settings["head_width"]),
        "result": results,
        "intervals": intervals(folder / "predictions_test.csv", results.classes),
    }
    metadata = {
        "library_name": "dermgen" if settings["head_width"] else "transformers",
        "pipeline_tag": "image-classification",
        "tags": ["vit" if "vit" in config["model_type"] else config["model_type"]],
    }
    if base:
        metadata |= {"base_model": base, "base_model_relation": "finetune"}
    files = {name: folder / name for name in ("config.json", "model.safetensors", "preprocessor_config.json")}
    sha256 = hash_file(folder / "model.safetensors")
    return Described(folder, "classifier", files, sha256, False, True, model, metadata, record)


def _prompts(record: RunRecord) -> dict[str, str | None]:
    """The prompt that was taught, or an example of the captions."""
    entry = next(iter(record.trained_on.data), SetFacts.of_plain_folder(0))
    codes = [code for code in entry.images_per_class if code != "unknown"]
    template = (entry.preparation or {}).get("caption_template", captions.DEFAULT_TEMPLATE)
    example = captions.fill(template, {"dx": from_labels(codes)[codes[0]].name}) if codes else "a skin lesion"
    return {
        "trigger": record.settings.get("instance_prompt"),
        "trigger_class": record.settings.get("instance_class"),
        "example_prompt": example,
    }


def _hub_id(record: RunRecord) -> str | None:
    """The id of the base model on the Hub; None for a folder, which nobody else can find."""
    return record.settings["pretrained_model_name_or_path"] if record.base_on_hub else None


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
