"""The images of a fine-tuning as data sets: decoded and cropped anew each time, or as cached latents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from torch.utils.data import Dataset

from dermgen.config import InputError
from dermgen.data.examples import Example, PromptedSet, always_square
from dermgen.stable_diffusion.inputs import Autoencoder, cache_latents

# Memory for the decoded images of each set: decoding takes a sixth of a small model's step, and a few images fit.
KEPT_BYTES = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class DataSets:
    """Makes a data set of examples.

    Args:
        vae: encodes images whose latents are cached, on its device.
        prompt_numbers: the number of each prompt in the batches.
        resolution: height and width in pixels.
        center_crop: crop the middle of images that are not square; otherwise at random.
        interpolation: torchvision's name of the resizing filter.
        flip: keep the latents of mirrored images too.
        masks: load lesion masks.
        cache_dir: of latents; None does not cache them.
        accelerator: its processes encode together.
    """

    vae: Autoencoder
    prompt_numbers: Mapping[str, int]
    resolution: int
    center_crop: bool
    interpolation: str
    flip: bool
    masks: bool
    cache_dir: Path | None
    accelerator: Accelerator

    def __call__(self, examples: Sequence[Example]) -> Dataset:
        """Items for `LatentSource`.

        Raises:
            InputError: for masks of images that would be cropped at random.
        """
        fixed_crop = self.center_crop or always_square(examples)
        if self.masks and not fixed_crop:
            raise InputError("--mask_loss_weight needs --center_crop where images are not square")
        cached = self.cache_dir is not None and fixed_crop
        keep = 0 if cached else KEPT_BYTES
        numbers = [self.prompt_numbers[e.prompt] for e in examples]
        pixels = PromptedSet(examples, numbers, self.resolution, fixed_crop, self.interpolation, self.masks, keep)
        if cached:
            return cache_latents(pixels, self.vae, self.flip, self.cache_dir, self.accelerator)
        if self.cache_dir is not None and self.accelerator.is_main_process:
            print(
                "latents are not cached: images are not square and are cropped at random (--center_crop would allow it)"
            )
        return pixels
