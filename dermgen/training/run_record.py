"""The record of a training run: its settings, how it came about, what the model is, and which weights are best.

It is stored in `config.yaml` and `provenance.json`; `data.trained_on` owns the part about the training images.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dermgen.blocks import counted
from dermgen.config import write_json
from dermgen.data.set_facts import described
from dermgen.data.trained_on import TrainedOn
from dermgen.job import saved_settings
from dermgen.settings.methods import METHODS
from dermgen.training.best import best_folder, kept_scores

FILE = "provenance.json"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What is recorded of a run; a fact that its method does not have, or that an older version left out, is None.

    Attributes:
        folder: of the run.
        settings: by name, as `config.yaml` holds them.
        run: its id.
        python: version of Python that began it.
        packages: the version of each package that the result depends on.
        argv: the command line.
        finished_step: the step at which the final weights were written.
        training_seconds: until then.
        device: name of the GPU, or instruction set of the CPU.
        processes: number of them.
        method: of a model trained from scratch.
        classes: codes in order, of such a model or of a classifier.
        class_conditional: whether images of a class can be requested.
        resolution: of its images, in pixels.
        training_images: number of them; of each side of a CycleGAN.
        parameters: number of weights of the generating networks.
        discriminator_parameters: number of weights of the discriminators.
        best_by: name of the validation result, lower is better, that chose the best weights.
        beta_end: of a DDPM's schedule.
        base_model: folder or name on the Hub of the model that was fine-tuned.
        base_on_hub: whether that is a name on the Hub.
        base_sha256: of its weights.
        base_path: its folder during the training; None on the Hub.
        revision: of it on the Hub.
        trained_parameters: number of its weights that were trained.
        data_fingerprint: hash of image ids and prompts.
        instance_images: number of them.
        class_images: number of images for prior preservation.
        reloaded_output_difference: between the trained weights and the saved ones, loaded again.
        test_sources: of a classifier, where its test images come from.
    """

    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None
    python: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    argv: Sequence[str] = ()
    finished_step: int | None = None
    training_seconds: float | None = None
    device: str | None = None
    processes: int | None = None
    method: str | None = None
    classes: Sequence[str] = ()
    class_conditional: bool = False
    resolution: int | None = None
    training_images: int | Sequence[int] | None = None
    parameters: int | None = None
    discriminator_parameters: int | None = None
    best_by: str | None = None
    beta_end: float | None = None
    base_model: str | None = None
    base_on_hub: bool = False
    base_sha256: str | None = None
    base_path: str | None = None
    revision: str | None = None
    trained_parameters: int | None = None
    data_fingerprint: str | None = None
    instance_images: int | None = None
    class_images: int | None = None
    reloaded_output_difference: float | None = None
    test_sources: Sequence[str] = ()

    @classmethod
    def read(cls, folder: str | Path) -> "RunRecord":
        """The record in a folder; an empty one if there is none."""
        path = Path(folder, FILE)
        facts = json.loads(path.read_text()) if path.exists() else {}
        known = {name: facts[name] for name in FACTS if name in facts}
        return cls(folder=Path(folder), settings=saved_settings(folder), **known)

    @staticmethod
    def is_one(folder: str | Path) -> bool:
        """Whether a folder is that of a run: a set of images has a `provenance.json` too, but also a table."""
        return Path(folder, FILE).exists() and not Path(folder, "metadata.csv").exists()

    @cached_property
    def trained_on(self) -> TrainedOn:
        """What the run was trained on."""
        return TrainedOn.read(self.folder)

    def headline(self) -> str:
        """What was trained on what, in a sentence."""
        what = "A classifier was trained" if self.classes else "A model was trained"
        if self.method is not None:
            name = METHODS[self.method].title if self.method in METHODS else self.method
            size = f" with {_millions(self.parameters)} parameters" if self.parameters else ""
            what = f"A {name}{size} at {self.resolution} px was trained from scratch"
        elif self.instance_images is not None:
            rank = self.settings.get("rank")
            method = f"{METHODS['dreambooth_lora'].title} (rank {rank})" if rank else METHODS["dreambooth"].title
            what = f"{self.base_model} was fine-tuned with {method}"
        length = ", not recorded as finished," if self.finished_step is None else f" for {self.finished_step:,} steps"
        prior = f" and {counted(self.class_images, 'class image')}" if self.class_images else ""
        base = self.trained_on.base_data
        of_base = f"; its base model was trained on {described(base, counted_images=False)}" if base else ""
        data = self.trained_on.data
        on = described(data) if data else "images that are not recorded"
        return f"{what}{length} on {on}{prior}{of_base}."

    def best(self) -> tuple[int, float] | None:
        """The step with the best validation result and that result; None without weights of a validated step."""
        scores = kept_scores(self.folder, self.best_by or "")
        return (scores.best_step, scores.by_step[scores.best_step]) if scores.by_step else None

    def best_weights(self) -> Path | None:
        """The folder of the weights with the best validation result."""
        best = self.best()
        return best_folder(self.folder, best[0]) if best else None


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"


FACTS = {f.name for f in dataclasses.fields(RunRecord)} - {"folder", "settings"}


def begin(folder: Path, **facts: Any) -> None:
    """Write the first facts of a run, unless it has some already."""
    if not (folder / FILE).exists():
        write_json(folder / FILE, _checked(facts))


def add(folder: Path, **facts: Any) -> None:
    """Add facts, each a field of `RunRecord`, to those that `begin` wrote; others stay."""
    path = folder / FILE
    write_json(path, json.loads(path.read_text()) | _checked(facts))


def _checked(facts: dict[str, Any]) -> dict[str, Any]:
    if unknown := facts.keys() - FACTS:
        raise TypeError(f"RunRecord has no field {', '.join(sorted(unknown))}")
    return facts
