"""A finished run: of a method trained from scratch its generator and discriminator, of any the hash of its weights.

The methods are imported where one is loaded: they bring the scores of a GAN's validation, 100 MiB, into every training
that only writes its card.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from dermgen.config import InputError
from dermgen.data.cache import hash_file, key_of
from dermgen.sampling import ImageCritic, ImageGenerator
from dermgen.stable_diffusion.weights import LORA_FILE
from dermgen.training.run_record import RunRecord

NETWORKS = {
    "ddpm": ["unet"],
    "vae": ["vae"],
    "dcgan": ["generator"],
    "stylegan2": ["generator"],
    "cyclegan": ["generator_a_to_b", "generator_b_to_a"],
}


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, and where the chosen weights are."""

    folder: Path
    weights: Path
    method: str
    classes: list[str]
    class_conditional: bool
    resolution: int

    @property
    def only_class(self) -> str:
        """The class of every image that it draws; "" if it is not one."""
        return self.classes[0] if len(self.classes) == 1 else ""

    def sha256(self) -> str:
        """Of the weights that draw."""
        paths = [p for name in NETWORKS[self.method] for p in sorted((self.weights / name).glob("*.safetensors"))]
        return hash_file(paths[0]) if len(paths) == 1 else key_of(*map(hash_file, paths))

    def discriminator_sha256(self) -> str:
        """Of the weights that judge."""
        return key_of(*map(hash_file, sorted(self.folder.glob("discriminator*/*.safetensors"))))


def weights_sha256(folder: str | Path) -> str:
    """Of what was trained of a Stable Diffusion: a LoRA file, or UNet and text encoder; "" where there are none."""
    folder = Path(folder)
    lora = folder / LORA_FILE if folder.is_dir() else folder
    if lora.is_file():
        return hash_file(lora)
    files = [p for part in ("unet", "text_encoder") for p in sorted((folder / part).glob("*.safetensors"))]
    return key_of(*map(hash_file, files)) if files else ""


def find(folder: str | Path, weights: Literal["last", "best"] = "last") -> TrainedRun | None:
    """The finished run in that folder; None where there is none of a method trained from scratch.

    Raises:
        InputError: if the run has no final weights yet, or no best ones are asked for and there are none.
    """
    folder = Path(folder)
    record = RunRecord.read(folder)
    method = record.method
    if method is None:
        return None
    if method not in NETWORKS:
        raise InputError(f"{folder} is a run of {method!r}, which this version of dermgen does not know")
    place = record.best_weights() if weights == "best" else folder
    if place is None:
        raise InputError(f"{folder} has no best weights, since it was not validated: take --weights last")
    if not all((folder / name).is_dir() for name in NETWORKS[method]):
        raise InputError(
            f"the run in {folder} has no final weights yet: let its training finish (the same command goes on)"
        )
    return TrainedRun(folder, place, method, list(record.classes), record.class_conditional, record.resolution)


def load_generator(
    run: TrainedRun,
    device: torch.device,
    num_inference_steps: int | None = 50,
    guidance_scale: float | None = 1.0,
    scheduler: str | None = "ddim",
    truncation: float | None = 1.0,
    direction: str | None = "a_to_b",
    sources: torch.Tensor | None = None,
) -> ImageGenerator:
    """What draws the run's images.

    Args:
        run: the run.
        device: where it draws.
        num_inference_steps: of a DDPM.
        guidance_scale: of a DDPM.
        scheduler: of a DDPM.
        truncation: of a StyleGAN2.
        direction: of a CycleGAN.
        sources: images that a CycleGAN translates, uint8 (N, 3, H, W).
    """
    from dermgen.methods import cyclegan, dcgan, ddpm, stylegan2, vae

    if run.method == "ddpm":
        return ddpm.load_generator(run.weights, run.classes, num_inference_steps, guidance_scale, scheduler, device)
    if run.method == "vae":
        return vae.load_generator(run.weights, run.classes, device)
    if run.method == "dcgan":
        return dcgan.load_generator(run.weights, run.classes, device)
    if run.method == "stylegan2":
        return stylegan2.load_generator(run.weights, run.classes, truncation, device)
    return cyclegan.load_generator(run.weights, direction, sources, device)


def load_critic(folder: str, device: torch.device, kind: str | None = None) -> tuple[TrainedRun, ImageCritic]:
    """The discriminator of a GAN run.

    Args:
        folder: of the run.
        device: where it judges.
        kind: "a" or "b", whose discriminator of a CycleGAN between two manifests.

    Raises:
        InputError: if the folder is no finished run of a GAN, or the kind is needed and not given.
    """
    run = find(folder)
    if run is None or run.method not in ("dcgan", "stylegan2", "cyclegan"):
        what = f"a run of {run.method}, which has no discriminator" if run else "no run of a GAN"
        raise InputError(f"{folder} is {what}: give a run of train_scripts/dcgan.py, stylegan2.py or cyclegan.py")
    from dermgen.methods import cyclegan, dcgan, stylegan2

    if run.method == "dcgan":
        return run, dcgan.load_critic(run.folder, run.classes, device)
    if run.method == "stylegan2":
        return run, stylegan2.load_critic(run.folder, run.classes, device)
    if run.classes != ["a", "b"]:
        return run, KindCritic(run, device)
    if kind is None:
        raise InputError(f"{folder} translates between two manifests: say whose discriminator judges by --kind a or b")
    return run, cyclegan.load_critic(run.folder, kind, run.resolution, device)


class KindCritic:
    """The two discriminators of a CycleGAN between two classes, each for the images of its own."""

    def __init__(self, run: TrainedRun, device: torch.device):
        from dermgen.methods import cyclegan

        self.first = run.classes[0]
        self.of = {kind: cyclegan.load_critic(run.folder, kind, run.resolution, device) for kind in ("a", "b")}

    def score(self, images: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
        kinds = ["a" if label == self.first else "b" for label in labels]
        parts = zip(images.split(1), labels, kinds, strict=True)
        return torch.cat([self.of[kind].score(image, [label]) for image, label, kind in parts])
