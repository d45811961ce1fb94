"""A finished run: its generator and discriminator if it was trained from scratch, and the hash of its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from dermgen.config import InputError
from dermgen.data.cache import hash_file, key_of
from dermgen.sampling import GeneratorOptions, ImageCritic, ImageGenerator
from dermgen.settings.methods import FROM_SCRATCH, METHODS, Method
from dermgen.stable_diffusion.weights import LORA_FILE
from dermgen.training.run_record import RunRecord


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, and where the chosen weights are."""

    folder: Path
    weights: Path
    name: str
    classes: list[str]
    class_conditional: bool
    resolution: int

    @property
    def method(self) -> Method:
        """What its method can do."""
        return METHODS[self.name]

    @property
    def only_class(self) -> str:
        """The class of every image that it generates; "" if there are several or none."""
        return self.classes[0] if len(self.classes) == 1 else ""

    def sha256(self) -> str:
        """Hash of the generating networks' weights."""
        paths = [p for name in self.method.networks for p in sorted((self.weights / name).glob("*.safetensors"))]
        return hash_file(paths[0]) if len(paths) == 1 else key_of(*map(hash_file, paths))

    def discriminator_sha256(self) -> str:
        """Hash of the discriminators' weights."""
        return key_of(*map(hash_file, sorted(self.folder.glob("discriminator*/*.safetensors"))))


def weights_sha256(folder: str | Path) -> str:
    """Hash of the trained weights of a Stable Diffusion: a LoRA file, or UNet and text encoder; "" without any."""
    folder = Path(folder)
    lora = folder / LORA_FILE if folder.is_dir() else folder
    if lora.is_file():
        return hash_file(lora)
    files = [p for part in ("unet", "text_encoder") for p in sorted((folder / part).glob("*.safetensors"))]
    return key_of(*map(hash_file, files)) if files else ""


def find(folder: str | Path, weights: Literal["last", "best"] = "last") -> TrainedRun | None:
    """The finished run in that folder; None if it holds no run of a method trained from scratch.

    Raises:
        InputError: if the run has no final weights yet, or best ones are requested and it has none.
    """
    folder = Path(folder)
    record = RunRecord.read(folder)
    if record.method is None:
        return None
    if record.method not in FROM_SCRATCH:
        raise InputError(
            f"{folder} is a run of {record.method!r}, which this version of dermgen does not know: update dermgen"
        )
    chosen = record.best_weights() if weights == "best" else folder
    if chosen is None:
        raise InputError(f"{folder} has no best weights, since it was not validated: use --weights last")
    if not all((folder / name).is_dir() for name in FROM_SCRATCH[record.method].networks):
        raise InputError(
            f"the run in {folder} has no final weights yet: let its training finish (the same command resumes it)"
        )
    return TrainedRun(folder, chosen, record.method, list(record.classes), record.class_conditional, record.resolution)


def load_generator(run: TrainedRun, device: torch.device, **options: Any) -> ImageGenerator:
    """The generator of the run's images, on a device; `options` are those of `GeneratorOptions`."""
    return run.method.load().load_generator(run.weights, run.classes, device, GeneratorOptions(**options))


def load_critic(
    folder: str, device: torch.device, domain: Literal["a", "b"] | None = None
) -> tuple[TrainedRun, ImageCritic]:
    """The discriminator of a GAN run.

    Args:
        folder: of the run.
        device: on which it scores.
        domain: whose discriminator, of a CycleGAN between two manifests.

    Raises:
        InputError: if the folder is not a finished run of a GAN, or a domain is needed and not given.
    """
    run = find(folder)
    if run is None or not run.method.judges:
        what = f"a run of {run.name}, which has no discriminator" if run else "not a run of a GAN"
        scripts = [f"{name}.py" for name, method in METHODS.items() if method.judges]
        raise InputError(f"{folder} is {what}: give a run of train_scripts/{', '.join(scripts[:-1])} or {scripts[-1]}")
    return run, run.method.load().load_critic(run.folder, run.classes, run.resolution, device, domain)
