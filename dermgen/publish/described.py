"""A finished run as it is published: which files are the model, how it was trained, what its card says."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
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


@dataclass(frozen=True, kw_only=True)
class Described:
    """A finished run, ready to be published.

    Attributes:
        record: of the run.
        template: name of its card in `model_cards/`.
        files: that are sent, by their names there.
        sha256: of the weights.
        generates: whether it generates images; a model that does can copy.
        whole: whether the base model's weights are among those sent.
        model: what the card says of the model.
        metadata: of the card, by the Hub's names.
    """

    record: RunRecord
    template: str
    files: dict[str, Path]
    sha256: str
    generates: bool = True
    whole: bool
    model: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.record.folder

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
        shown = [(k, v) for k, v in known.items() if v not in (None, False, "", []) or k == "seed"]
        return [(name, without_paths(_text(value))) for name, value in shown]

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
        """Time and device of the training; None where they were not recorded."""
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
        small = ", ".join(f"{code} ({n})" for code, n in sorted(counts.items()) if n < SMALL_CLASS)
        return [f"Classes with under {SMALL_CLASS} training images: {small}."] if small else []


def describe(folder: str | Path, weights: Literal["last", "best"] = "last") -> Described:
    """The finished run in a folder.

    Raises:
        InputError: if there is none, it has not finished, or it does not record what it was trained on.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    if (folder / "metadata.csv").exists():
        raise InputError(f"{folder} holds images, not a model: dermgen publish dataset {folder} …")
    if not RunRecord.is_one(folder):
        raise InputError(f"{folder} has no provenance.json: it is no run of dermgen, so nothing is known of it")
    record, run = RunRecord.read(folder), runs.find(folder, weights)
    if run is not None:
        described = _from_scratch(run, record)
    elif weights == "best":
        raise InputError("--weights best is for models trained from scratch, whose validations choose among weights")
    elif (folder / LORA_FILE).exists():
        described = _lora(record)
    elif (folder / "model_index.json").exists():
        described = _pipeline(record)
    elif is_one(ClassifierResult, folder) and (folder / "model.safetensors").exists():
        described = _classifier(record)
    else:
        raise InputError(f"the run in {folder} has not finished: run the same command again")
    if not record.trained_on.data:
        raise InputError(f"{folder} does not record what it was trained on: it stopped too early, or is too old")
    last = max(map(step_of, checkpoints(folder)), default=0)
    if record.finished_step is not None and last > record.finished_step:
        raise InputError(
            f"{folder} was resumed up to step {last} since its weights were written at step {record.finished_step}: "
            "run the same command again to finish it"
        )
    return described


def _lora(record: RunRecord) -> Described:
    path, settings = record.folder / LORA_FILE, record.settings
    with safe_open(path, framework="np") as file:
        parameters = sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    model = {
        "parameters": parameters,
        "rank": settings["rank"],
        "alpha": settings["lora_alpha"] or settings["rank"],
        "use_dora": settings["use_dora"],
        "train_text_encoder": settings["train_text_encoder"],
        "targets": settings["lora_target_modules"] or list(UNET_TARGETS),
    }
    return Described(
        record=record,
        template="dreambooth_lora",
        files={LORA_FILE: path},
        sha256=runs.weights_sha256(record.folder),
        whole=False,
        model=model | _prompts(record) | {"base_model": _hub_id(record)},
        metadata=_of_stable_diffusion(record, ["lora"], "adapter"),
    )


def _pipeline(record: RunRecord) -> Described:
    folder = record.folder
    index = json.loads((folder / "model_index.json").read_text())
    parts = [name for name, kind in index.items() if isinstance(kind, list) and (folder / name).is_dir()]
    return Described(
        record=record,
        template="dreambooth",
        files={name: folder / name for name in ("model_index.json", *parts)},
        sha256=runs.weights_sha256(folder),
        whole=True,
        model={"parameters": record.trained_parameters, **_prompts(record), "base_model": _hub_id(record)},
        metadata=_of_stable_diffusion(record, [], "finetune"),
    )


def _from_scratch(run: runs.TrainedRun, record: RunRecord) -> Described:
    names = [*run.method.networks, "scheduler", "model_index.json"]
    # The best weights are the networks alone; what goes with them lies beside the last ones.
    files = {name: place for name in names for place in (run.folder / name, run.weights / name) if place.exists()}
    task = "image-to-image" if run.method.translates else "unconditional-image-generation"
    return Described(
        record=record,
        template=run.name,
        files=files,
        sha256=run.sha256(),
        whole=False,
        model={
            "parameters": record.parameters,
            "classes": run.classes,
            "class_conditional": run.class_conditional,
            "resolution": run.resolution,
        },
        metadata={"library_name": "dermgen", "pipeline_tag": task, "tags": [run.name]},
    )


def _classifier(record: RunRecord) -> Described:
    folder, settings = record.folder, record.settings
    result, config = read(ClassifierResult, folder), json.loads((folder / "config.json").read_text())
    model_type = config["model_type"]
    return Described(
        record=record,
        template="classifier",
        files={name: folder / name for name in ("config.json", "model.safetensors", "preprocessor_config.json")},
        sha256=hash_file(folder / "model.safetensors"),
        generates=False,
        whole=True,
        model={
            "base_model": _hub_id(record),
            "classes": result.classes,
            "architecture": config["architectures"][0].removesuffix("ForImageClassification"),
            "resolution": settings["resolution"],
            "wide_head": bool(settings["head_width"]),
            "result": result,
            "intervals": intervals(folder / "predictions_test.csv", result.classes),
        },
        metadata={
            "library_name": "dermgen" if settings["head_width"] else "transformers",
            "pipeline_tag": "image-classification",
            "tags": ["vit" if "vit" in model_type else model_type],
            **_of_base(record, "finetune"),
        },
    )


def _prompts(record: RunRecord) -> dict[str, str | None]:
    """The prompt that it was trained with, or an example of the captions."""
    entry = next(iter(record.trained_on.data), SetFacts.of_plain_folder(0))
    codes = [code for code in entry.images_per_class if code != "unknown"]
    template = (entry.preparation or {}).get("caption_template", captions.DEFAULT_TEMPLATE)
    example = captions.fill(template, {"dx": from_labels(codes)[codes[0]].name}) if codes else "a skin lesion"
    return {
        "trigger": record.settings.get("instance_prompt"),
        "trigger_class": record.settings.get("instance_class"),
        "example_prompt": example,
    }


def _of_stable_diffusion(record: RunRecord, tags: Sequence[str], relation: str) -> dict[str, Any]:
    """Metadata of a card."""
    return {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": [*tags, "dreambooth", "stable-diffusion", "diffusers-training"],
        "instance_prompt": record.settings.get("instance_prompt"),
        **_of_base(record, relation),
    }


def _of_base(record: RunRecord, relation: str) -> dict[str, str]:
    """Metadata of a card about the base model."""
    base = _hub_id(record)
    return {"base_model": base, "base_model_relation": relation} if base else {}


def _hub_id(record: RunRecord) -> str | None:
    """The id of the base model on the Hub; None for a folder, which nobody else can find."""
    return record.settings["pretrained_model_name_or_path"] if record.base_on_hub else None


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
