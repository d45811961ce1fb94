"""The interface of every trained generator and discriminator, and the loop that saves the images of a generator."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn
from tqdm.auto import tqdm

from dermgen.config import InputError, whole_file
from dermgen.data.loading import to_unit_range

T = TypeVar("T")
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


class ImageGenerator(Protocol):
    """A trained generator, whatever its method."""

    def sample(self, labels: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """Generate one image per label (a class code, or a prompt) as uint8 (N, 3, H, W).

        Image `i` depends on `labels[i]` and `seeds[i]` alone.
        """
        ...


class ImageCritic(Protocol):
    """A trained discriminator, whatever its method."""

    def score(self, images: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
        """How real uint8 images (N, 3, H, W) of these classes look, (N,) float32; more is more real."""
        ...


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Within the block the models are in evaluation mode and no gradients are computed."""
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


def class_indices(labels: Sequence[str], classes: Sequence[str], conditional: bool) -> list[int]:
    """Indices of the requested classes; all 0 for an unconditional model.

    Raises:
        InputError: for a class that the model does not know, or any of several that it cannot choose between.
    """
    if not conditional:
        requested = sorted(set(labels) - {"", *(classes if len(classes) == 1 else ())})
        if requested:
            known = f"was trained on {', '.join(classes) or 'images without classes'} together"
            raise InputError(
                f"this run cannot generate {requested[0]!r}: it {known}, without --class_conditional, and generates "
                "any of them (--num_images N)"
            )
        return [0] * len(labels)
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise InputError(f"this run cannot generate {unknown[0]!r}: it knows {', '.join(classes)}")
    return [classes.index(label) for label in labels]


class Critic:
    """An `ImageCritic` over a trained discriminator.

    Args:
        network: takes images (N, 3, H, H) in [-1, 1] and class indices (N,); gives logits (N, …).
        resolution: H, in pixels.
        classes: codes in the order of the indices.
        conditional: whether the network uses the class.
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


def taken_in_turn(images: Sequence[T], seed: int) -> T:
    """The initial image that the image of this seed is made from."""
    return images[seed % len(images)]


@dataclass(frozen=True)
class GeneratorOptions:
    """How a model trained from scratch generates; each method reads those of its `Method.options`.

    Attributes:
        num_inference_steps: denoising steps.
        guidance_scale: weight of the class; 1 is none.
        scheduler: name of the sampler.
        truncation: psi of a style network.
        direction: in which images are translated.
        sources: the images that are translated, uint8 (N, 3, H, W).
    """

    num_inference_steps: int = 50
    guidance_scale: float = 1.0
    scheduler: str = "ddim"
    truncation: float = 1.0
    direction: Literal["a_to_b", "b_to_a"] = "a_to_b"
    sources: torch.Tensor | None = None


@dataclass(frozen=True)
class Request:
    """One image to be generated: its label, its seed, and its file."""

    label: str
    seed: int
    path: Path


def generate_missing(
    generator: ImageGenerator,
    requests: Sequence[Request],
    save: Callable[[Request, torch.Tensor], None],
    batch_size: int,
    process_index: int = 0,
    num_processes: int = 1,
    desc: str = "images",
) -> None:
    """Generate this process's share of the requests whose files are missing; a batch is halved if memory runs out.

    Args:
        generator: of the images.
        requests: the whole list, the same on all processes.
        save: writes one uint8 (3, H, W) image, whole or not at all.
        batch_size: images at a time at the start.
        process_index: of this process.
        num_processes: that share the work.
        desc: of the progress bar.

    Raises:
        InputError: if not even one image fits into memory.
    """
    missing = [r for r in requests[process_index::num_processes] if not is_whole(r.path)]
    start = time.monotonic()
    hidden = process_index > 0 or len(missing) <= batch_size
    with tqdm(total=len(missing), desc=desc, unit="image", disable=hidden, dynamic_ncols=True) as progress:
        done = 0
        while done < len(missing):
            batch = missing[done : done + batch_size]
            try:
                images = generator.sample([r.label for r in batch], [r.seed for r in batch])
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise InputError(
                        "not even one image fits into memory: use a smaller model or a larger device"
                    ) from error
                batch_size = len(batch) // 2
                progress.write(f"out of memory with {len(batch)} images at a time; continuing with {batch_size}")
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            for request, image in zip(batch, images, strict=True):
                save(request, image.cpu())
            done += len(batch)
            progress.update(len(batch))
            progress.set_postfix_str(f"{done / (time.monotonic() - start):.2f} images/s")


def save_png(image: torch.Tensor, path: Path, text: Mapping[str, str]) -> None:
    """Write a uint8 (3, H, W) image with these PNG text chunks, whole or not at all."""
    chunks = PngInfo()
    for name, value in text.items():
        chunks.add_text(name, value)
    with whole_file(path) as partial:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(partial, format="PNG", pnginfo=chunks)


def is_whole(path: Path) -> bool:
    """Whether a PNG exists and is complete; after a power cut it can be empty."""
    try:
        with open(path, "rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END
    except OSError:  # missing, or shorter than that
        return False


def _is_out_of_memory(error: RuntimeError) -> bool:
    # For the CPU PyTorch has no separate exception type.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
