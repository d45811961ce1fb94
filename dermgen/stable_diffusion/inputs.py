"""What the UNet is trained on: latents of images and embeddings of prompts, computed on the fly or cached.

Cached arrays are named by a hash of everything that they depend on: image bytes, crop, resolution, the weights that
compute them. A latent is cached as its distribution, and sampled anew each time; for flips, the mirror image too.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import nn
from torch.utils.data import Dataset

from dermgen.blocks import counted
from dermgen.config import InputError
from dermgen.data.cache import cached_array, hash_file, hash_weights, key_of
from dermgen.data.examples import PromptedSet
from dermgen.data.loading import collate, to_unit_range
from dermgen.training.draws import Draws

Autoencoder = AutoencoderKL | AutoencoderTiny


class CachedLatents(Dataset):
    """Items of a `PromptedSet` with latents instead of pixels: `{moments, image_id, prompt_id}`.

    `moments` is (F, 2C, h, w) float32: mean and standard deviation of the latent, F = 2 with the mirrored image as a
    second row, else 1; one more channel holds the lesion mask where the set has masks.
    """

    def __init__(self, pixels: PromptedSet, moments: np.ndarray):
        self.pixels, self.moments = pixels, moments

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> dict:
        return {
            "moments": torch.from_numpy(np.array(self.moments[i])),
            "image_id": self.pixels.examples[i].image_id,
            "prompt_id": self.pixels.prompt_ids[i],
        }


def cache_latents(
    pixels: PromptedSet, vae: Autoencoder, flip: bool, cache_dir: Path, accelerator: Accelerator, batch_size: int = 8
) -> CachedLatents:
    """Encode a whole set once, or load it from the cache. `pixels` must have a fixed crop.

    Raises:
        InputError: if the autoencoder gives NaN for an image.
    """
    key = key_of(
        "latents 1",
        hash_weights(vae),
        vae.dtype,
        pixels.resolution,
        pixels.transform,
        flip,
        pixels.masks,
        *(
            hash_file(path)
            for e in pixels.examples
            for path in (e.path, *([e.mask_path] if pixels.masks and e.mask_path else []))
        ),
        *((bool(e.mask_path) for e in pixels.examples) if pixels.masks else ()),
    )

    @torch.no_grad()
    def compute(indices: Iterable[int]) -> np.ndarray:
        batch = collate([pixels[i] for i in indices])
        rows = []
        for mirrored in (False, True) if flip else (False,):
            images = batch["pixels"].flip(-1) if mirrored else batch["pixels"]
            parts = list(latent_moments(vae, images.to(vae.device), batch["image_id"]))
            if pixels.masks:
                mask = batch["mask"].flip(-1) if mirrored else batch["mask"]
                parts.append(shrink_mask(mask.to(vae.device), parts[0].shape[-2:]))
            rows.append(torch.cat(parts, dim=1))
        return torch.stack(rows, dim=1).float().cpu().numpy()

    path = cache_dir / "latents" / f"{key}.npy"
    moments = cached_array(path, len(pixels), compute, accelerator, batch_size, "latents")
    return CachedLatents(pixels, moments)


def latent_moments(
    vae: Autoencoder, pixels: torch.Tensor, image_ids: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the latents, float32 (N, C, h, w) each, of uint8 (N, 3, H, W) pixels.

    Raises:
        InputError: if a latent is not finite.
    """
    encoded = vae.encode(to_unit_range(pixels).to(vae.dtype))
    if isinstance(vae, AutoencoderTiny):  # has no distribution
        mean, std = encoded.latents.float(), torch.zeros_like(encoded.latents, dtype=torch.float32)
    else:
        mean, std = encoded.latent_dist.mean.float(), encoded.latent_dist.std.float()
    bad = ~(torch.isfinite(mean) & torch.isfinite(std)).flatten(1).all(dim=1)
    if bad.any():
        names = [name for name, b in zip(image_ids, bad.tolist(), strict=True) if b]
        raise InputError(
            f"the autoencoder gives NaN for the images {', '.join(names[:5])} in {vae.dtype}: is it damaged?"
        )
    return mean, std


def shrink_mask(mask: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """uint8 (N, 1, H, W) masks as the share of lesion in each latent pixel, float32 (N, 1, h, w) in [0, 1]."""
    return F.interpolate((mask > 127).float(), size=tuple(size), mode="area")


class LatentSource:
    """Turns a batch of pixels or of cached latents into sampled, scaled latents and lesion masks.

    Args:
        vae: the frozen autoencoder.
        resolution: height and width of the pixels.
        flip: mirror each image with probability 1/2.
    """

    def __init__(self, vae: Autoencoder, resolution: int, flip: bool):
        self.vae, self.resolution, self.flip = vae, resolution, flip

    @torch.no_grad()
    def __call__(self, batch: dict, draws: Draws) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Latents (N, C, h, w) float32, and masks (N, 1, h, w) or None; image i depends on its own stream alone."""
        mask = None
        mirrored = draws.uniform() < 0.5 if self.flip else None
        if "moments" in batch:
            moments = batch["moments"]
            row = mirrored.long() if self.flip else torch.zeros(len(moments), dtype=torch.long, device=moments.device)
            moments = moments[torch.arange(len(moments), device=moments.device), row]
            channels = self.vae.config.latent_channels
            mean, std = moments[:, :channels], moments[:, channels : 2 * channels]
            mask = moments[:, 2 * channels :] if moments.shape[1] > 2 * channels else None
        else:
            pixels = random_crop(batch["whole"], self.resolution, draws) if "whole" in batch else batch["pixels"]
            if self.flip:
                pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
            mean, std = latent_moments(self.vae, pixels, batch["image_id"])
            if "mask" in batch:
                mask = batch["mask"]
                if self.flip:
                    mask = torch.where(mirrored[:, None, None, None], mask.flip(-1), mask)
                mask = shrink_mask(mask, mean.shape[-2:])
        latents = mean + std * draws.normal(*mean.shape[1:])
        return latents * self.vae.config.scaling_factor, mask


class PromptSource:
    """Embeddings of prompts by number, from a table computed once or from the text encoder in training.

    Args:
        prompts: the texts; a batch names them by index.
        tokenizer: of the pipeline.
        text_encoder: of the pipeline.
        max_length: tokens to which a prompt is cut or padded; default the tokenizer's.
        use_attention_mask: mask padding tokens in the encoder.
    """

    def __init__(
        self, prompts: Sequence[str], tokenizer, text_encoder: nn.Module, max_length=None, use_attention_mask=False
    ):
        self.prompts, self.text_encoder = list(prompts), text_encoder
        encoded = tokenizer(
            self.prompts,
            padding="max_length",
            truncation=True,
            max_length=max_length or tokenizer.model_max_length,
            return_tensors="pt",
        )
        self.input_ids = encoded.input_ids
        self.attention_mask = encoded.attention_mask if use_attention_mask else None
        self._table: np.ndarray | None = None

    def __call__(self, prompt_ids: torch.Tensor, text_encoder: nn.Module | None = None) -> torch.Tensor:
        """Embeddings (N, L, D) of the prompts with these numbers (N,).

        Args:
            prompt_ids: numbers of prompts.
            text_encoder: to use instead of the source's own, such as the prepared model of a run.
        """
        if self._table is not None:
            rows = self._table[prompt_ids.cpu().numpy()]
            return torch.from_numpy(rows).to(prompt_ids.device)
        device = prompt_ids.device
        mask = None if self.attention_mask is None else self.attention_mask.to(device)[prompt_ids]
        encoder = self.text_encoder if text_encoder is None else text_encoder
        return encoder(self.input_ids.to(device)[prompt_ids], attention_mask=mask).last_hidden_state

    def cache(self, cache_dir: Path, accelerator: Accelerator, batch_size: int = 32) -> None:
        """Compute all embeddings once, or load them from the cache; the text encoder is not run again."""
        key = key_of(
            "embeddings 1",
            hash_weights(self.text_encoder),
            self.text_encoder.dtype,
            self.input_ids.tolist(),
            None if self.attention_mask is None else self.attention_mask.tolist(),
        )

        @torch.no_grad()
        def compute(indices: Iterable[int]) -> np.ndarray:
            ids = torch.tensor(list(indices), device=self.text_encoder.device)
            return self(ids).float().cpu().numpy()

        path = cache_dir / "embeddings" / f"{key}.npy"
        self._table = cached_array(path, len(self.prompts), compute, accelerator, batch_size, "prompts")


def random_crop(images: Sequence[torch.Tensor], size: int, draws: Draws) -> torch.Tensor:
    """Cut a random square from each image.

    Args:
        images: N tensors (C, H, W), H and W at least `size`.
        size: of the square, in pixels.
        draws: one stream per image.

    Returns:
        (N, C, size, size).
    """
    positions = draws.uniform(2).tolist()
    crops = []
    for image, (u, v) in zip(images, positions, strict=True):
        top, left = int(u * (image.shape[1] - size + 1)), int(v * (image.shape[2] - size + 1))
        crops.append(image[:, top : top + size, left : left + size])
    return torch.stack(crops)


def check_prompts(prompts: Iterable[str], tokenizer) -> None:
    """Raise `InputError` for a prompt without tokens."""
    for prompt in prompts:
        if not prompt.strip() or not tokenizer(prompt, add_special_tokens=False).input_ids:
            raise InputError(f"the prompt {prompt!r} has no tokens: write what the image shows")


def cut_texts(texts: Iterable[str], tokenizer, max_length: int | None = None) -> dict[str, str]:
    """The part that a model reads of each text that is longer than its tokenizer's limit.

    Args:
        texts: prompts.
        tokenizer: of the pipeline.
        max_length: tokens of a prompt, including start and end; default the tokenizer's.
    """
    room = (max_length or tokenizer.model_max_length) - tokenizer.num_special_tokens_to_add()
    tokens = {text: tokenizer(text, add_special_tokens=False).input_ids for text in dict.fromkeys(texts)}
    return {text: tokenizer.decode(ids[:room]).strip() for text, ids in tokens.items() if len(ids) > room}


def cut_warning(cut: Mapping[str, str], number: int) -> str:
    """A warning of the texts that `cut_texts` returned, of `number` texts in all."""
    text, read = next(iter(cut.items()))
    same = sum(n for n in Counter(cut.values()).values() if n > 1)
    verb = "is" if len(cut) == 1 else "are"
    more = f"; {same} of them become identical" if same else ""
    return (
        f"warning: {len(cut)} of {counted(number, 'prompt')} {verb} too long for the model and {verb} cut: "
        f"{text[:50]!r}… is read only up to …{read[-50:]!r}{more}"
    )
