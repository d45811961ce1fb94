"""What surrounds the loop of a model trained from scratch: its images, its run, its validation and its best weights."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from dermgen import plots
from dermgen.data import trained_on
from dermgen.data.cache import default_cache_dir
from dermgen.data.loading import LesionSet, collate, to_unit_range
from dermgen.data.set_facts import SetFacts
from dermgen.sampling import ImageGenerator, evaluating
from dermgen.settings.training import FromScratchConfig
from dermgen.training import metrics_log
from dermgen.training.augmentation import augment
from dermgen.training.best import Scores, keep_if_best, kept_scores
from dermgen.training.draws import SAMPLES, VALIDATION, Draws, derive_seed
from dermgen.training.lesions import Lesions, read_lesions
from dermgen.training.run import Run


class Batch(NamedTuple):
    """Images (N, 3, H, W) in [-1, 1], class indices (N,), and one random stream for each image."""

    images: torch.Tensor
    labels: torch.Tensor
    draws: Draws


class FromScratch:
    """One training from scratch. The loop is the method's own; nothing here is to be overridden.

    >>> training = FromScratch(config, "vae")
    >>> model, optimizer = training.run.prepare(...)
    >>> for images, labels, draws in training.batches():
    ...     training.run.update(loss(model, images, labels, draws), optimizer)
    ...     if training.run.due(config.validation_steps):
    ...         training.save_samples(generator)
    ...         training.validate(measure, "val_loss", save)
    >>> training.finish(save)

    Args:
        config: the settings.
        method: its name in `provenance.json`.
        sides: the images; two sets for a translation between them. By default those that the config selects.
        classes: those that the model can generate, if they are not those of the images.

    Raises:
        InputError: as `read_lesions`, or if the run in the folder was started with other images.
    """

    def __init__(
        self,
        config: FromScratchConfig,
        method: str,
        sides: Sequence[Lesions] | None = None,
        classes: Sequence[str] | None = None,
    ):
        self.config = config
        self.sides = sides or [read_lesions(config)]
        self.lesions = self.sides[0]
        self.run = Run(config)
        data = [SetFacts.of(side.folder, side.train["image_id"]) for side in self.sides]
        rows = [row for side in self.sides for row in side.train.to_dict("records")]
        hash_of = trained_on.write(self.run.output_dir, self.run.accelerator, rows, data)
        numbers = [len(side.train) for side in self.sides]
        self.run.record(
            method=method,
            classes=self.lesions.classes if classes is None else list(classes),
            class_conditional=config.class_conditional,
            resolution=config.resolution,
            training_images=numbers[0] if len(numbers) == 1 else numbers,
        )
        self.datasets = [LesionSet(side.train, side.classes, config.resolution) for side in self.sides]
        for dataset in self.datasets:
            dataset.decode(Path(config.cache_dir or default_cache_dir()), self.run.accelerator, hash_of)

    @property
    def classes(self) -> list[str]:
        """The codes of the classes, in the order of their indices."""
        return self.lesions.classes

    def batches(self) -> Iterator[Batch]:
        """Augmented batches until the last step is done, as `Run.batches` yields them."""
        for (batch,) in self.joint_batches(self.datasets[0]):
            yield batch

    def joint_batches(self, *datasets: LesionSet) -> Iterator[list[Batch]]:
        """One batch of each data set at a time."""
        config = self.config
        for batches in self.run.batches(*datasets, collate_fn=collate):
            parts = (batches,) if len(datasets) == 1 else batches
            draws = self.run.draws.split([len(part["label"]) for part in parts])
            yield [
                Batch(
                    augment(
                        to_unit_range(part["pixels"]),
                        image_draws,
                        config.random_flip,
                        config.random_rotation,
                        config.random_crop,
                        config.intensity_scaling,
                    ),
                    part["label"],
                    image_draws,
                )
                for part, image_draws in zip(parts, draws, strict=True)
            ]

    def seeds(self, purpose: int, count: int) -> list[int]:
        """The seeds of images other than training images, the same every time."""
        return [derive_seed(self.config.seed, purpose, i) for i in range(count)]

    def save_samples(self, generator: ImageGenerator) -> None:
        """Write the sample grid of the averaged weights, always of the same labels and seeds (main process only)."""
        if not self.run.is_main:
            return
        count = self.config.num_sample_images
        labels = self.lesions.sample_labels(self.config.class_conditional, count)
        with self.run.averaged_weights():
            self.run.sample_grid(generator.sample(labels, self.seeds(SAMPLES, count)), columns=8)

    def held_out(self, batch_size: int = 64) -> Iterator[Batch]:
        """The validation images, not augmented, each time with the same random numbers."""
        device = self.run.accelerator.device
        dataset = LesionSet(self.lesions.val_of_classes, self.classes, self.config.resolution)
        seeds = self.seeds(VALIDATION, len(dataset))
        for start in range(0, len(dataset), batch_size):
            rows = range(start, min(start + batch_size, len(dataset)))
            pixels = dataset.images.stack(rows).to(device)
            labels = torch.tensor([dataset.labels[i] for i in rows], device=device)
            yield Batch(to_unit_range(pixels), labels, Draws(seeds[start : start + batch_size], device))

    def held_out_loss(self, network: nn.Module, losses: Callable[[Batch], torch.Tensor]) -> dict[str, float]:
        """`val_loss`, the mean of `losses` (N,) over the validation images; {} if there are none."""
        if self.lesions.val.empty:
            return {}
        with evaluating(network):
            return {"val_loss": float(torch.cat([losses(batch) for batch in self.held_out()]).mean())}

    def validate(self, measure: Callable[[], dict[str, float]], best_by: str, save: Callable[[Path], None]) -> None:
        """Measure the averaged weights, log the scores, keep the best weights, plot the curves (main process only).

        Args:
            measure: scores by name; {} if nothing can be measured.
            best_by: the score that chooses the best weights; lower is better.
            save: writes the weights into a folder.
        """
        run = self.run
        if not run.is_main:
            return
        with run.averaged_weights():
            measured = measure()
            if measured:
                chosen = measured.pop(best_by)
                if measured:
                    run.write_metrics(**measured)
                run.write_metrics(**{best_by: chosen})
                run.record(best_by=best_by)
                by_step = {**kept_scores(run.output_dir, best_by).by_step, run.step: chosen}
                keep_if_best(run.output_dir, run.step, Scores(by_step, lower_is_better=True), save)
        _plot_curves(run.output_dir)

    def warn(self, text: str) -> None:
        """Print a warning about the step in progress."""
        print(f"step {self.run.step}: {text}", file=sys.stderr)

    def finish(self, save: Callable[[Path], None], request: str | None = None) -> None:
        """Save the averaged weights as the result, and print the command that generates images from them.

        Args:
            save: writes them into a folder.
            request: the options of `dermgen generate` that choose what is generated; default by class and number.
        """
        run = self.run
        with run.averaged_weights():
            if run.is_main:
                save(run.output_dir)
        run.accelerator.wait_for_everyone()
        if request is None:
            numbers = ",".join(f"{code}:16" for code in self.classes)
            request = f"--classes {numbers}" if self.config.class_conditional else "--num_images 16"
        if run.is_main:
            print(
                f"The networks are in {run.output_dir}, samples and curves in its samples/ and plots/. Generate images "
                f"with\n  dermgen generate --model {run.output_dir} {request} --output_dir FOLDER"
            )


def _plot_curves(run_dir: Path) -> None:
    """`plots/losses.png`, and a plot of each score of held-out images, from metrics.jsonl."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for line in metrics_log.read(run_dir / "metrics.jsonl"):
        for name, value in line.items():
            if name not in ("step", "learning_rate"):
                lines.setdefault(name, []).append((line["step"], value))
    held_out = {name: {name: points} for name, points in lines.items() if name.startswith("val_")}
    losses = {name: points for name, points in lines.items() if name not in held_out}
    for title, part in {"losses": losses, **held_out}.items():
        if part:
            plots.curves(run_dir / "plots" / f"{title}.png", title, "", part)
