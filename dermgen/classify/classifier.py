"""Train a ViT or a ResNet on real and synthetic lesions, and test it on unseen real ones."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

from dermgen.classify import metrics, networks
from dermgen.classify.augmentation import augment, mixup
from dermgen.classify.history import History
from dermgen.classify.mixture import training_rows
from dermgen.config import InputError
from dermgen.data import comparable, manifest, trained_on
from dermgen.data.image_files import check_readable
from dermgen.data.loading import LesionSet, collate
from dermgen.data.prepared import Split
from dermgen.data.set_facts import SetFacts
from dermgen.findings import Finding, of_base_model
from dermgen.labels import from_labels
from dermgen.results.classifier import ClassifierResult
from dermgen.results.common import is_one, read, write
from dermgen.sampling import evaluating
from dermgen.settings.classifier import ClassifierConfig
from dermgen.training.best import best_folder
from dermgen.training.optimizers import adamw
from dermgen.training.run import Run

if TYPE_CHECKING:
    import pandas as pd


WEIGHTS = "model.safetensors"


def train(config: ClassifierConfig) -> ClassifierResult:
    """Train, keep the best validation's weights, and write them with `results.json` and predictions of val and test.

    Returns:
        What `results.json` holds. A finished run is not repeated.

    Raises:
        InputError: for a split that leaks, synthetic images where real ones belong, or too few of them.
    """
    images = read_images(config)
    classes = images.classes
    if not config.from_scratch:
        networks.check_pretrained(config.pretrained_model_name_or_path, config.revision, config.resolution)
    run = Run(config)
    _record(images, config, run)
    dataset = LesionSet(images.train, classes, config.resolution)
    steps = config.max_train_steps or config.num_train_epochs * run.steps_per_epoch(dataset)
    if is_one(ClassifierResult, run.output_dir):
        result = read(ClassifierResult, run.output_dir)
        if result.max_train_steps == steps:
            _print_scores(result, run)
            return result

    classifier = build(config, classes)
    optimizer = adamw(
        [p for p in classifier.parameters() if p.requires_grad],
        config,
        torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam,
    )
    weights = _class_weights(images.train, classes, config.class_weights).to(run.accelerator.device)
    model, optimizer = run.prepare(classifier, optimizer, average=classifier)
    model.train()
    validate_every = config.validation_steps or run.steps_per_epoch(dataset)
    run.resume()
    history = History(run, config)
    for batch in run.batches(dataset, collate_fn=collate):
        pixels = batch["pixels"].float() / 255
        targets = F.one_hot(batch["label"], len(classes)).float()
        if not config.no_augmentation:
            pixels = augment(pixels, run.draws, config.rotation, config.crop, config.color_jitter)
        if config.mixup_alpha:
            pixels, targets = mixup(pixels, targets, config.mixup_alpha, run.draws)
        logits = model(pixels)
        loss = F.cross_entropy(logits.float(), targets, weights, label_smoothing=config.label_smoothing)
        run.update(loss, optimizer)
        run.log(loss=loss)
        if run.due(validate_every):
            with run.averaged_weights():
                probabilities = predict(run, model, images.val, classes, config)
                measured = _validation(probabilities, images.val, classes)
                history.add(measured, lambda folder: _save_weights(classifier, folder))
    classifier.model.load_state_dict(load_file(best_folder(run.output_dir, history.best_step) / WEIGHTS))
    result = _finish(run, model, classifier, history.best_step, images, config, steps)
    _print_scores(result, run)
    return result


def _print_scores(result: ClassifierResult, run: Run) -> None:
    if run.is_main:
        test = result.test
        figures = f"BMA {test['bma']:.3f}, accuracy {test['accuracy']:.3f}, n {test['n']}"
        print(f"test split: {figures}; all figures in {run.output_dir}/results.json")


def examine(config: ClassifierConfig) -> Iterator[Finding]:
    """What can be said of a recipe before it is tried."""
    if config.from_scratch:
        return
    name, revision = config.pretrained_model_name_or_path, config.revision
    weights = networks.num_weights(name, revision)
    yield from of_base_model(name, weights)
    if weights is not None:
        try:
            networks.check_pretrained(name, revision, config.resolution)
        except InputError as error:
            yield Finding("FIX", "model", str(error))


@dataclass(frozen=True)
class Images:
    """Rows of the images of training, validation and test.

    Attributes:
        classes: codes in order.
        train: real and synthetic; with oversampling an image has several rows.
        val: real.
        test: real.
        notes: caveats of a comparison with synthetic images.
    """

    classes: list[str]
    train: "pd.DataFrame"
    val: "pd.DataFrame"
    test: "pd.DataFrame"
    notes: list[str]


def read_images(config: ClassifierConfig) -> Images:
    """The images of both manifests that the config selects.

    Raises:
        InputError: if they cannot be used, see `train`.
    """
    real = manifest.read_real(config.data_dir)
    classes = [c for c in from_labels(real["dx"]).codes if c in set(real["dx"])]
    if len(classes) < 2:
        raise InputError(f"{config.data_dir} has only the class {classes[0]}: a classifier needs two or more")
    synthetic = manifest.read_synthetic(config.synthetic_dir) if config.synthetic_dir else None
    rows = arm_rows(config, real, synthetic)
    val, test = (manifest.select(real, split=split, where=config.data_dir) for split in ("val", "test"))
    notes = []
    if synthetic is not None:
        notes = comparable.require(real, real[real["split"] != "train"], synthetic, config.synthetic_dir)
    check_readable([*rows["path"].unique(), *val["path"], *test["path"]])
    return Images(classes, rows, val, test, notes)


def _record(images: Images, config: ClassifierConfig, run: Run) -> None:
    """Record the images of training and test, and print their notes and warnings."""
    rows = images.train
    data = [
        SetFacts.of(folder, rows.loc[rows["synthetic"] == synthetic, "image_id"])
        for folder, synthetic in ((config.data_dir, "false"), (config.synthetic_dir, "true"))
        if folder
    ]
    base_model = None if config.from_scratch else config.pretrained_model_name_or_path
    trained_on.write(run.output_dir, run.accelerator, rows.to_dict("records"), data, base_model)
    run.record(
        classes=images.classes,
        test_sources=sorted(set(images.test["source"]) - {""}),
        base_on_hub=base_model is not None and not Path(base_model).exists(),
    )
    if run.is_main:
        for note in images.notes:
            print(f"note: {note}")
        for warning in Split.of(config.data_dir).warnings():
            print(f"warning: {warning}", file=sys.stderr)


def arm_rows(config: ClassifierConfig, real: "pd.DataFrame", synthetic: "pd.DataFrame | None") -> "pd.DataFrame":
    """The rows that this configuration trains on, of a whole real manifest and perhaps a synthetic one."""
    train_split = manifest.select(real, split="train", where=config.data_dir)
    missing = sorted(set(real["dx"]) - set(train_split["dx"]))
    if missing:
        raise InputError(f"{config.data_dir}: {', '.join(missing)} has no images in the train split")
    return training_rows(
        train_split,
        synthetic,
        not config.no_real,
        config.synthetic_ratio,
        config.synthetic_classes,
        config.only_kept,
        config.oversample,
        config.seed,
    )


def build(config: ClassifierConfig, classes: list[str]) -> networks.Classifier:
    """The network of the config, with a new head and frozen first stages."""
    torch.manual_seed(config.seed)
    if config.from_scratch:
        classifier = networks.build_small_vit(
            classes, config.resolution, config.patch_size, config.width, config.layers
        )
    else:
        classifier = networks.load_pretrained(config.pretrained_model_name_or_path, classes, config.revision)
    if config.head_width:
        networks.widen_head(classifier, config.head_width, config.head_dropout)
    classifier.freeze(config.freeze_stages)
    return classifier


def predict(
    run: Run, model: nn.Module, rows: "pd.DataFrame", classes: Sequence[str], config: ClassifierConfig
) -> torch.Tensor:
    """Class probabilities (N, C) float64 of the images of `rows`, in their order; the processes share the work."""
    accelerator = run.accelerator
    share = range(len(rows))[accelerator.process_index :: accelerator.num_processes]
    loader = DataLoader(
        LesionSet(rows.iloc[list(share)], classes, config.resolution),
        config.eval_batch_size,
        collate_fn=collate,
        num_workers=config.dataloader_num_workers,
    )
    with evaluating(model):
        shares = [
            model(batch["pixels"].to(accelerator.device).float() / 255).double().softmax(1).cpu() for batch in loader
        ]
    numbered = list(zip(share, torch.cat(shares) if shares else [], strict=True))
    everyone = sorted(gather_object(numbered), key=lambda pair: pair[0])
    return torch.stack([probabilities for _, probabilities in everyone])


def _class_weights(rows, classes: Sequence[str], balanced: bool) -> torch.Tensor:
    """Weights of the classes in the loss, mean 1 over the training images."""
    counts = torch.tensor([float((rows["dx"] == c).sum()) for c in classes])
    return len(rows) / (len(classes) * counts) if balanced else torch.ones(len(classes))


def _counts(rows) -> dict[str, dict[str, int]]:
    """Rows per class, real and synthetic, including repeats."""
    return {
        name: rows.loc[rows["synthetic"] == flag, "dx"].value_counts().sort_index().to_dict()
        for name, flag in (("real", "false"), ("synthetic", "true"))
    }


def _labels(rows, classes: Sequence[str]) -> torch.Tensor:
    return torch.tensor([classes.index(dx) for dx in rows["dx"]])


def _validation(probabilities: torch.Tensor, rows, classes: Sequence[str]) -> dict[str, float]:
    labels = _labels(rows, classes)
    measured = metrics.measure(probabilities, labels, classes)
    loss = float(F.nll_loss(probabilities.clamp_min(1e-12).log(), labels))
    return {"val_loss": loss, "val_bma": measured["bma"], "val_accuracy": measured["accuracy"]}


def _save_weights(classifier: networks.Classifier, folder: Path) -> None:
    save_file({k: v.contiguous() for k, v in classifier.model.state_dict().items()}, folder / WEIGHTS)


def _finish(
    run: Run,
    model: nn.Module,
    classifier: networks.Classifier,
    best_step: int,
    images: Images,
    config: ClassifierConfig,
    steps: int,
) -> ClassifierResult:
    """Evaluate the weights on val and test, and write the results."""
    classes, measured = images.classes, {}
    for split, part in (("val", images.val), ("test", images.test)):
        probabilities = predict(run, model, part, classes, config)
        measured[split] = metrics.measure(probabilities, _labels(part, classes), classes)
        if run.is_main:
            table = part[["image_id", "lesion_id", "patient_id", "dx"]].reset_index(drop=True)
            for i, code in enumerate(classes):
                table[f"p_{code}"] = probabilities[:, i].numpy()
            manifest.write_csv(table, run.output_dir / f"predictions_{split}.csv")
    result = ClassifierResult(
        classes=classes,
        best_step=best_step,
        last_step=run.step,
        max_train_steps=steps,
        **Split.of(config.data_dir).to_json(),
        training_images=_counts(images.train),
        **measured,
    )
    if run.is_main:
        networks.save(classifier, run.output_dir, config.resolution)
        write(result, run.output_dir)
    run.accelerator.wait_for_everyone()
    return result
