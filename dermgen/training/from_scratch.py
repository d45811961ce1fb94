"""What every model trained from scratch on a manifest shares: settings, its images, its records, its pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from dermgen import plots
from dermgen.config import InputError
from dermgen.data import manifest, trained_on
from dermgen.data.cache import default_cache_dir
from dermgen.data.loading import Example, LesionSet, check_readable, to_unit_range
from dermgen.data.subsets import subset
from dermgen.labels import from_labels
from dermgen.sampling import ImageGenerator
from dermgen.settings.training import AdversarialConfig, FromScratchConfig
from dermgen.training import metrics_log
from dermgen.training.augmentation import augment
from dermgen.training.best import Scores, keep_if_best, kept_scores
from dermgen.training.draws import Draws, derive_seed
from dermgen.training.run import Run

if TYPE_CHECKING:
    import pandas as pd


# First parts of the seeds of what is not a training image; those of training images are small.
SAMPLES, VALIDATION, MONITOR, STATISTICS, PICTURES = range(2**30, 2**30 + 5)


@dataclass(frozen=True)
class Lesions:
    """The images that a model learns, those that are held out, and the codes of their classes in order."""

    train: "pd.DataFrame"
    val: "pd.DataFrame"
    classes: list[str]


def read_lesions(config: FromScratchConfig, folder: str | None = None, only: Sequence[str] | None = None) -> Lesions:
    """The manifest's rows that the config asks for, or those of another `folder` or of `only` some classes.

    Raises:
        InputError: for a manifest with synthetic images or leaking splits, an unknown class, too few images for a
            batch, or images that cannot be read.
    """
    where, only = folder or config.data_dir, only or config.only_classes or ()
    table = manifest.read_real(where, need_classes=config.class_conditional)
    for code in (*only, *(config.exclude_classes or ())):
        manifest.select(table, dx=code, where=where)
    if only:
        table = table[table["dx"].isin(only)]
    table = table[~table["dx"].isin(config.exclude_classes or ())]
    train = manifest.select(table, split="train", where=where)
    if config.max_images_per_class is not None:
        train = subset(train, config.max_images_per_class, config.seed, "each")
    val = subset(table[table["split"] == "val"], config.validation_images, config.seed)
    train, val = train.reset_index(drop=True), val.reset_index(drop=True)
    if len(train) < config.train_batch_size:
        raise InputError(
            f"{where} has {len(train)} training images of {', '.join(only) or 'all classes'}, fewer than a batch of "
            f"{config.train_batch_size}: lower --train_batch_size"
        )
    classes = [c for c in from_labels(train["dx"]).codes if c in set(train["dx"])]
    if config.class_conditional and (absent := sorted(set(table["dx"]) - set(classes))):
        raise InputError(f"{where}: {', '.join(absent)} has no images in the train split")
    if config.class_conditional and len(classes) < 2:
        raise InputError(f"class_conditional needs at least 2 classes, {where} has {len(classes)}: leave it out")
    check_readable([Example(path, "", "") for path in (*train["path"], *val["path"])])
    return Lesions(train, val, classes)


def training_set(lesions: Lesions, config: FromScratchConfig, run: Run, method: str) -> LesionSet:
    """The data set of the training images, decoded once; what the run is, and of which images, is written down.

    Raises:
        InputError: if the folder's run was begun with other images.
    """
    data = [manifest.facts(config.data_dir, lesions.train["image_id"])]
    hash_of = trained_on.write(run.output_dir, run.accelerator, lesions.train.to_dict("records"), data)
    run.record(
        method=method,
        classes=lesions.classes,
        class_conditional=config.class_conditional,
        resolution=config.resolution,
        training_images=len(lesions.train),
    )
    return decoded(lesions, hash_of, config, run)


def decoded(lesions: Lesions, hash_of: Mapping[str, str], config: FromScratchConfig, run: Run) -> LesionSet:
    """The training images, decoded once; `hash_of` is what `trained_on.write` gives."""
    dataset = LesionSet(lesions.train, lesions.classes, config.resolution)
    dataset.decode(Path(config.cache_dir or default_cache_dir()), run.accelerator, hash_of)
    return dataset


def training_batch(batch: dict, draws: Draws, config: FromScratchConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Augmented images (N, 3, H, W) in [-1, 1], and class indices (N,)."""
    images = augment(
        to_unit_range(batch["pixels"]),
        draws,
        config.random_flip,
        config.random_rotation,
        config.random_crop,
        config.intensity_scaling,
    )
    return images, batch["label"]


def discriminator_rate(config: AdversarialConfig) -> float:
    """The discriminator's peak learning rate."""
    own = config.discriminator_learning_rate
    return config.learning_rate if own is None else own


def sample_labels(classes: Sequence[str], conditional: bool, count: int) -> list[str]:
    """Labels of `count` sample images, class after class; "" where no class can be asked for."""
    return [classes[i * len(classes) // count] for i in range(count)] if conditional else [""] * count


def save_samples(run: Run, generator: ImageGenerator, lesions: Lesions, config: FromScratchConfig) -> None:
    """The sample grid, always of the same labels and seeds; drawn by one process."""
    if not run.is_main:
        return
    labels = sample_labels(lesions.classes, config.class_conditional, config.num_sample_images)
    seeds = [derive_seed(config.seed, SAMPLES, i) for i in range(len(labels))]
    with run.averaged_weights():
        run.sample_grid(generator.sample(labels, seeds), columns=8)


def save_curves(run: Run) -> None:
    """`plots/losses.png`, and a plot for each thing that was measured on held-out images, from metrics.jsonl."""
    if not run.is_main:
        return
    lines: dict[str, list[tuple[float, float]]] = {}
    for line in metrics_log.read(run.output_dir / "metrics.jsonl"):
        for name, value in line.items():
            if name not in ("step", "learning_rate"):
                lines.setdefault(name, []).append((line["step"], value))
    held_out = {name: {name: points} for name, points in lines.items() if name.startswith("val_")}
    losses = {name: points for name, points in lines.items() if name not in held_out}
    for title, part in {"losses": losses, **held_out}.items():
        if part:
            plots.curves(run.output_dir / "plots" / f"{title}.png", title, "", part)


def validation_batches(
    lesions: Lesions, config: FromScratchConfig, device: torch.device, batch_size: int = 64
) -> Iterator[tuple[torch.Tensor, torch.Tensor, Draws]]:
    """Images in [-1, 1], class indices and fixed random numbers of the validation images, batch by batch."""
    known = lesions.val[lesions.val["dx"].isin(lesions.classes)] if lesions.classes else lesions.val
    dataset = LesionSet(known, lesions.classes, config.resolution)
    for start in range(0, len(dataset), batch_size):
        rows = range(start, min(start + batch_size, len(dataset)))
        items = [dataset[i] for i in rows]
        pixels = torch.stack([item["pixels"] for item in items]).to(device)
        labels = torch.tensor([item["label"] for item in items], device=device)
        yield to_unit_range(pixels), labels, Draws([derive_seed(config.seed, VALIDATION, i) for i in rows], device)


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Within the block the models are in evaluation mode and nothing is differentiated."""
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


def keep_best(run: Run, name: str, value: float, save: Callable[[Path], None]) -> None:
    """Log the validation's result, less is better, and keep the weights beside the last ones if it is the best."""
    run.write_metrics(**{name: value})
    if run.is_main:
        run.record(best_by=name)
        by_step = {**kept_scores(run.output_dir, name).by_step, run.step: value}
        keep_if_best(run.output_dir, run.step, Scores(by_step, lower_is_better=True), save)


def tell_result(run: Run, asking: str) -> None:
    """Say where the result is and how images are drawn from it; `asking` is what `dermgen generate` needs besides."""
    if run.is_main:
        print(
            f"The networks are in {run.output_dir}, samples and curves in its samples/ and plots/; draw images with\n"
            f"  dermgen generate --model {run.output_dir} {asking} --output_dir FOLDER"
        )


def how_to_ask(lesions: Lesions, config: FromScratchConfig) -> str:
    """The options of `dermgen generate` that choose what a run draws."""
    if config.class_conditional:
        return "--classes " + ",".join(f"{code}:16" for code in lesions.classes)
    return "--num_images 16"


def class_indices(labels: Sequence[str], classes: Sequence[str], conditional: bool) -> list[int]:
    """Indices of the asked classes; of an unconditional model 0 for its only class or none.

    Raises:
        InputError: for a class that the model does not know, or any class where it cannot choose.
    """
    if not conditional:
        asked = sorted(set(labels) - {"", *(classes if len(classes) == 1 else ())})
        if asked:
            known = f"was trained on {', '.join(classes) or 'images without classes'} together"
            raise InputError(
                f"this run cannot draw {asked[0]!r}: it {known}, without --class_conditional, and draws any of them "
                "(--num_images N)"
            )
        return [0] * len(labels)
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise InputError(f"this run cannot draw {unknown[0]!r}: it knows {', '.join(classes)}")
    return [classes.index(label) for label in labels]


class Critic:
    """An `ImageCritic` over a trained discriminator.

    Args:
        network: takes images (N, 3, H, H) in [-1, 1] and class indices (N,); gives logits (N, …).
        resolution: H, in pixels.
        classes: codes in the order of the indices.
        conditional: whether the network looks at the class.
    """

    def __init__(self, network: nn.Module, resolution: int, classes: Sequence[str], conditional: bool):
        self.network, self.resolution, self.classes, self.conditional = network, resolution, classes, conditional

    def score(self, images: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
        """The mean logit of each uint8 image (N, 3, resolution, resolution), (N,) float32 on the CPU."""
        device = next(self.network.parameters()).device
        if self.conditional:
            labels = class_indices(labels, self.classes, True)
        else:
            labels = [0] * len(images)
        with evaluating(self.network):
            logits = self.network(to_unit_range(images.to(device)), torch.tensor(labels, device=device))
        return logits.float().flatten(1).mean(1).cpu() if logits.dim() > 1 else logits.float().cpu()
